"""
What the command line makes of twistd's own options.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.tap import Options

#: What twistd has when its own options have been read.
TWISTD = {"pidfile": "twistd.pid", "logfile": None, "nodaemon": 0, "syslog": 0}


class NamesTests(SynchronousTestCase):
    """Several roles run in one folder."""

    def names(self, *arguments: str, **twistd: object) -> tuple[object, object]:
        """
        Read these arguments under a twistd with these options.

        :returns: its pid file and its log file.
        """
        options = Options()
        parent = TWISTD | twistd
        options.parent = parent
        options.parseOptions(arguments)
        return parent["pidfile"], parent["logfile"]

    def test_daemon(self) -> None:
        """A daemon's pid file and log file have the name of the role."""
        self.assertEqual(self.names("--role=web"), ("fxprofile-web.pid", "fxprofile-web.log"))
        self.assertEqual(self.names(), ("fxprofile-combined.pid", "fxprofile-combined.log"))

    def test_foreground(self) -> None:
        """In the foreground there is no pid file, and the log goes to the standard output."""
        self.assertEqual(self.names(nodaemon=1), ("", None))

    def test_named(self) -> None:
        """Files that have been named keep their names."""
        named = {"pidfile": "/run/a.pid", "logfile": "/var/log/a.log"}
        self.assertEqual(self.names(**named), ("/run/a.pid", "/var/log/a.log"))

    def test_syslog(self) -> None:
        """A log that goes to syslog gets no file."""
        self.assertEqual(self.names(syslog=1), ("fxprofile-combined.pid", None))

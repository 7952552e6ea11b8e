"""
What the command line makes of twistd's own options.
"""

from __future__ import annotations

import gc
import io
from contextlib import redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from fxprofile import __version__
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
        self.addCleanup(gc.enable)
        options = Options()
        parent = TWISTD | twistd
        options.parent = parent
        options.parseOptions(arguments)
        return parent["pidfile"], parent["logfile"]

    def test_files_of_a_daemon_are_named_after_its_role(self) -> None:
        """The pid file and the log file of a daemon are named after its role."""
        self.assertEqual(self.names("--role=web"), ("fxprofile-web.pid", "fxprofile-web.log"))
        self.assertEqual(self.names(), ("fxprofile-combined.pid", "fxprofile-combined.log"))

    def test_foreground_process_has_no_files(self) -> None:
        """A foreground process has no pid file and logs to standard output."""
        self.assertEqual(self.names(nodaemon=1), ("", None))

    def test_named_files_keep_their_names(self) -> None:
        """A pid file or log file named on the command line keeps its name."""
        named = {"pidfile": "/run/a.pid", "logfile": "/var/log/a.log"}
        self.assertEqual(self.names(**named), ("/run/a.pid", "/var/log/a.log"))

    def test_syslog_needs_no_file(self) -> None:
        """A process that logs to syslog has no log file."""
        self.assertEqual(self.names(syslog=1), ("fxprofile-combined.pid", None))


class VersionTests(SynchronousTestCase):
    """``twistd fxprofile --version``."""

    def test_version_is_that_of_fxprofile(self) -> None:
        """``--version`` prints the version of fxprofile, not that of Twisted, and exits with 0."""
        printed = io.StringIO()
        with redirect_stdout(printed):
            ended = self.assertRaises(SystemExit, Options().parseOptions, ["--version"])
        self.assertEqual(printed.getvalue(), f"fxprofile {__version__}\n")
        self.assertIs(ended.code, None)

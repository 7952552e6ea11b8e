"""``twistd fxprofile``: its options, and the service that they describe."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from twisted.application.service import IService
from twisted.python import usage

from fxprofile import __version__

if TYPE_CHECKING:
    from fxprofile.app.services import Services


class Options(usage.Options):
    """The command line.  An error ends the process with one line and status 1."""

    synopsis = "[options]"
    longdesc = (
        "The Firefox Accounts profile service. Without options, every role runs in this one "
        "process, with files for buckets and SQLite for the rest. etc/fxprofile.toml describes "
        "every setting. FXPROFILE_SECTION__KEY in the environment overrides the file; --set "
        "overrides both."
    )
    optParameters = [  # noqa: RUF012
        ["role", "r", "combined", "web, worker, images or combined."],
        ["config", "c", None, "The TOML file to read settings from."],
        ["inherit", None, None, "Used by the service itself, to start its further processes."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["set"] = []

    def opt_set(self, setting: str) -> None:
        """Set one setting, as section.key=value; may be repeated."""
        self["set"].append(setting)

    def opt_version(self) -> None:
        """Print the version of fxprofile, and exit."""
        print(f"fxprofile {__version__}")
        raise SystemExit

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        if self.parent is not None:
            # What is imported next stays: collections would take a fifth of the time of the start.
            gc.disable()
        from fxprofile.model.errors import ConfigError

        try:
            super().parseOptions(options)
        except (usage.UsageError, ConfigError) as error:
            # twistd would print all of its own help first.
            raise SystemExit(f"fxprofile: {error}") from None

    def postOptions(self) -> None:
        from fxprofile.app.tls import leave_out_tls, uses_tls
        from fxprofile.settings.load import load
        from fxprofile.settings.model import Role

        if self["role"] not in list(Role):
            roles = ", ".join(Role)
            raise usage.UsageError(f"--role: {self['role']!r} must be one of {roles}")
        self["role"] = role = Role(self["role"])
        self.read = partial(load, config=self["config"], overrides=self["set"], role=role)
        self.settings = self.read()
        if not uses_tls(self.settings, role):
            leave_out_tls()
        from fxprofile.app.startup import name_files

        if self.parent is not None:
            name_files(role, self.parent)

    def arguments(self) -> list[str]:
        """Return these options as arguments."""
        config = [] if self["config"] is None else [f"--config={self['config']}"]
        return [f"--role={self['role']}", *config, *(f"--set={s}" for s in self["set"])]


def makeService(
    options: Options, adapt: Callable[[Services], None] = lambda services: None
) -> IService:
    """
    Return the service that the options describe.

    :param adapt: called with the services before a role uses them; for tests.
    :raises SystemExit: with one line, if a setting cannot be used.
    """
    from twisted.internet import reactor

    from fxprofile.app.services import Services
    from fxprofile.app.startup import inherit, make_role
    from fxprofile.deferreds.steady import SteadyClock

    # The reactor is an object; type checkers take it for a module.
    vars(reactor)["seconds"] = SteadyClock()
    services = Services(options.settings, reactor)
    adapt(services)
    if options["inherit"] is not None:
        inherit(services, options["inherit"])
    return make_role(
        options["role"], services, options.parent or {}, options.read, options.arguments()
    )

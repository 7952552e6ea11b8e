"""``fxprofile-admin``: the command and its subcommands."""

from __future__ import annotations

import click

from fxprofile import __version__
from fxprofile.admin.avatar import avatar
from fxprofile.admin.capacity import capacity
from fxprofile.admin.check_config import check_config
from fxprofile.admin.completion import completion
from fxprofile.admin.crunch import crunch
from fxprofile.admin.dead import dead
from fxprofile.admin.doctor import doctor
from fxprofile.admin.import_fxa.command import import_fxa
from fxprofile.admin.migrate import migrate
from fxprofile.admin.orphans import orphans
from fxprofile.admin.provision.command import provision
from fxprofile.admin.quarantine import quarantine
from fxprofile.admin.queues import queues
from fxprofile.admin.shared.commands import AdminGroup
from fxprofile.admin.user import user


@click.group(
    cls=AdminGroup,
    commands=[
        avatar,
        capacity,
        check_config,
        completion,
        crunch,
        dead,
        doctor,
        import_fxa,
        migrate,
        orphans,
        provision,
        quarantine,
        queues,
        user,
    ],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="fxprofile-admin")
def cli() -> None:
    """
    Operate a profile service.

    Every command reads the same settings as the daemon: a file, then the environment
    (FXPROFILE_SECTION__KEY), then --set. The exit status is 0 if all is well, 1 if
    something is wrong, and 2 if the command line or a setting is wrong.
    """


def main() -> None:
    """Run the command line; the entry point of the installed command."""
    cli(prog_name="fxprofile-admin")


if __name__ == "__main__":
    main()

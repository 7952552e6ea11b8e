"""
The kind of command that all of ours are: it takes the common options, before or after
its name, and turns the errors of drivers into one line.
"""

from __future__ import annotations

from typing import Any

import click

from fxprofile.admin.shared.session import Problem, Session, WrongSetting, line
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.model.errors import ConfigError, DriverError


def _option(name: str, *declarations: str, **attributes: Any) -> click.Option:
    """An option that goes to the session, and not to the function of the command."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        session = context.ensure_object(Session)
        if isinstance(value, tuple):
            getattr(session, name).extend(value)
        elif value:
            setattr(session, name, value)

    return click.Option(declarations, expose_value=False, callback=keep, **attributes)


def common_options() -> list[click.Parameter]:
    """The options that every command has."""
    return [
        _option(
            "config",
            *("-c", "--config"),
            metavar="FILE",
            help="The TOML file to read settings from.",
        ),
        _option(
            "overrides",
            "--set",
            metavar="SECTION.KEY=VALUE",
            multiple=True,
            help="Set one setting; may be repeated.",
        ),
        _option("as_json", "--json", is_flag=True, help="Print JSON."),
        _option(
            "verbose",
            *("-v", "--verbose"),
            is_flag=True,
            help="Say on the standard error what happens.",
        ),
    ]


class AdminCommand(click.Command):
    """A command with the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise WrongSetting(line(error)) from None
        except DriverError as error:
            raise Problem(line(error)) from None
        except AwsError as error:
            raise Problem(" ".join(str(error).split())) from None


class AdminGroup(click.Group):
    """A group of commands, which has the common options as well."""

    command_class = AdminCommand
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())


pass_session = click.make_pass_decorator(Session, ensure=True)

#: For what cannot be undone.
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask whether it is meant.")

"""``fxprofile-admin check-config``: check the settings and print them without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
from pydantic import SecretStr

from fxprofile.admin.shared.commands import AdminCommand, Answer, current_session, role_option
from fxprofile.admin.shared.output import Members, table
from fxprofile.settings.load import read
from fxprofile.settings.model import Role, Settings

#: Replaces a secret.
MASK: Final = "********"

#: From the user name to the last ``@``, as some libraries accept any character in a password.
_PASSWORD = re.compile(r"^([\w+.-]+://[^:/@]*):.*@", re.DOTALL)
_SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&]*", re.I)


@click.command(name="check-config", cls=AdminCommand)
@role_option(help="Check what this role needs.")
def check_config(role: Role) -> Answer:
    """
    Check the settings and print them with their defaults.

    Prints every problem at once. Secrets are masked. This contacts no other process;
    doctor does.
    """
    session = current_session()
    problems, settings = read(config=session.config, overrides=session.overrides, role=role)
    shown = {} if settings is None else effective(settings, role)
    doubts = [] if settings is None else settings.doubts(role)
    for doubt in doubts:
        click.echo(f"fxprofile-admin: warning: {doubt}", err=True)
    return Answer(
        {"ok": not problems, "problems": problems, "warnings": doubts, "settings": shown},
        "" if problems else table((), _flat(shown)),
        status=2 if problems else 0,
        errors=problems,
    )


def effective(settings: Settings, role: Role) -> Members:
    """Return the settings as JSON, with the defaults of a role and without secrets."""
    members: Members = _masked(settings.model_dump(mode="json"))
    for name in ("database", "cache"):
        url = getattr(settings, name).url
        members[name]["url"] = url and masked_url(url.get_secret_value())
    members["admin"]["listen"] = settings.admin_listen(role)
    members["crunch"]["sandbox"] = settings.sandbox
    return members


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return masked_url(value)
    return MASK if value == str(SecretStr("secret")) else value


def masked_url(url: str) -> str:
    """Return a URL with its password and its secret query parameters masked."""
    if "://" not in url:
        return MASK
    return _SECRET_PARAMETER.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1:{MASK}@", url))


def _flat(members: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _flat(dict(enumerate(value)), f"{path}{name}.")
        else:
            yield f"{path}{name}", value

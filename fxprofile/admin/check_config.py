"""``fxprofile-admin check-config``: the settings as the service would see them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from pydantic import BaseModel, SecretStr

from fxprofile.admin.shared.commands import AdminCommand, pass_session
from fxprofile.admin.shared.output import pairs, printable
from fxprofile.admin.shared.session import Session
from fxprofile.settings.load import read
from fxprofile.settings.model import Role, Settings

#: What stands for a secret.
MASK: Final = "********"

#: Settings that are secret in parts only, which are those of a URL.
_URLS: Final = frozenset({"database.url", "cache.url"})

_URL = re.compile(r"([\w+.-]+)://(?:([^:/@]*)(?::(.*))?@)?([^@]*)", re.DOTALL)
_SECRET_NAME = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)


@click.command(name="check-config", cls=AdminCommand)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.COMBINED.value,
    show_default=True,
    help="Whose needs the settings have to meet.",
)
@pass_session
def check_config(session: Session, role: str) -> None:
    """
    Check the settings and print what they come to.

    Prints everything that is wrong at once. Secrets are masked. Nothing outside of this
    process is asked; that is what doctor does.
    """
    problems, settings = read(config=session.config, overrides=session.overrides, role=Role(role))
    shown = {} if settings is None else effective(settings, Role(role))
    if session.as_json:
        session.answer({"ok": not problems, "problems": problems, "settings": shown}, "")
    elif problems:
        for problem in problems:
            click.echo(f"fxprofile-admin: {printable(problem)}", err=True)
    else:
        session.answer(None, pairs(_flat(shown)))
    if problems:
        raise SystemExit(2)


def effective(settings: Settings, role: Role) -> dict[str, Any]:
    """The settings as JSON, with what the defaults of a role come to, and no secrets."""
    shown = _members(settings, "")
    shown["admin"]["listen"] = settings.admin_listen(role)
    shown["crunch"]["sandbox"] = settings.sandbox
    return shown


def _members(section: BaseModel, path: str) -> dict[str, Any]:
    return {
        name: _shown(getattr(section, name), f"{path}{name}") for name in type(section).model_fields
    }


def _shown(value: Any, key: str) -> Any:
    if isinstance(value, BaseModel):
        return _members(value, key + ".")
    if isinstance(value, SecretStr):
        return masked_url(value.get_secret_value()) if key in _URLS else MASK
    if isinstance(value, (list, tuple)):
        return [_shown(item, key) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return masked_url(value) if "://" in value else value
    return value


def masked_url(url: str) -> str:
    """
    A URL without the password, and whatever else in it may be a secret.

    As some libraries take passwords with any character in them, everything up to the
    last ``@`` is taken for one.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return MASK
    scheme, user, password, rest = match.groups()
    place, question, query = rest.partition("?")
    parameters = [parameter.partition("=") for parameter in query.split("&")]
    return "".join(
        (
            f"{scheme}://",
            "" if user is None else user,
            "" if password is None else f":{MASK}",
            "" if user is None else "@",
            place + question,
            "&".join(
                f"{name}{equals}{MASK if equals and _SECRET_NAME.search(name) else value}"
                for name, equals, value in parameters
            ),
        )
    )


def _flat(members: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                yield from _flat(item, f"{path}{name}.{number}.")
        elif isinstance(value, list):
            yield f"{path}{name}", ", ".join(map(str, value)) or None
        else:
            yield f"{path}{name}", value

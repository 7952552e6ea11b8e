"""
Read the settings: from the command line, the environment, a TOML file and the defaults,
in this order.

What is wrong is one line that names the key, and never quotes a value, which may be a
secret.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import CRASH_AT, ENVIRONMENT_PREFIX, Role, Settings, is_loopback


def load(
    *,
    config: str | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    role: Role = Role.COMBINED,
) -> Settings:
    """
    Read the settings.

    :param config: the path of a TOML file.
    :param overrides: ``section.key=value``, as given on the command line.
    :param environ: the environment; that of the process if left out.
    :param role: whose needs the settings have to meet.
    :raises ConfigError: with one line for the first thing that is wrong.
    """
    problems, settings = read(config=config, overrides=overrides, environ=environ, role=role)
    if settings is None:
        raise ConfigError(problems[0])
    return settings


def read(
    *,
    config: str | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    role: Role = Role.COMBINED,
) -> tuple[list[str], Settings | None]:
    """
    Read the settings, and say everything that is wrong with them.

    :returns: one line a problem, and the settings if there is none.
    """
    known = os.environ if environ is None else environ
    problems = _unknown_names(known)
    members: dict[str, Any] = {}
    whole = True
    sources: list[Callable[[], dict[str, Any]]] = [
        lambda: _from_file(config) if config else {},
        *(
            partial(_from_environment, name, value)
            for name, value in sorted(known.items())
            if name.upper().startswith(ENVIRONMENT_PREFIX) and value
        ),
        *(partial(_from_command_line, override) for override in overrides),
    ]
    for source in sources:
        try:
            members = _merge(members, source())
        except ConfigError as problem:
            problems.append(str(problem))
            whole = False
    settings, wrong = _checked(members)
    problems += wrong
    if settings is None:
        # What does not go together is found among what is right by itself.
        settings, _ = _checked(members)
    if whole and settings is not None:
        problems += _combinations(settings, role)
    return problems, None if problems else settings


def _checked(members: dict[str, Any]) -> tuple[Settings | None, list[str]]:
    """The settings, or what is wrong with them, which is then taken out of the members."""
    try:
        return Settings(**members), []
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        for wrong in errors:
            _take_out(members, wrong["loc"])
        return None, [_one_line(wrong) for wrong in errors]


def _take_out(members: Any, place: tuple[int | str, ...]) -> None:
    for part in place[:-1]:
        if not isinstance(members, dict) or not isinstance(members.get(str(part)), dict):
            break
        members = members[str(part)]
    else:
        part = place[-1] if place else ""
    if isinstance(members, dict):
        members.pop(str(part), None)


def _combinations(settings: Settings, role: Role) -> Iterator[str]:
    """What is wrong with settings that are right one by one, for a process of this role."""
    if role in (Role.WEB, Role.COMBINED) and settings.identity.driver == "dev":
        if settings.environment == "production":
            yield "identity.driver: dev is not for environment = production; use fxa"
        if not is_loopback(settings.web.listen):
            yield (
                "web.listen: must be a loopback address, as tcp:1111:interface=127.0.0.1 is, "
                "when identity.driver is dev"
            )
    if role in (Role.WORKER, Role.COMBINED) and settings.crunch.heic and not _has("pillow_heif"):
        yield "crunch.heic: needs the package pillow-heif; pip install 'fxprofile[heic]'"
    # It may have a password, which is for the web role alone, as the cache is.
    lacks_url = settings.cache.driver == "redis" and settings.cache.url is None
    if role in (Role.WEB, Role.COMBINED) and lacks_url:
        yield "cache.url: must be set when cache.driver is redis"
    if role is not Role.IMAGES and settings.queue.driver == "sqs":
        for key in ("jobs_url", "results_url"):
            if getattr(settings.queue, key) is None:
                yield f"queue.{key}: must be set when queue.driver is sqs"
        for key in ("events_url", "updates_url"):
            if not (getattr(settings.queue, key) or "http").startswith("http"):
                yield f"queue.{key}: must be a URL when queue.driver is sqs"
    if role is not Role.IMAGES:
        yield from _shared_queues(settings)


def local_drivers(settings: Settings, role: Role) -> list[str]:
    """The settings of a role that are for one machine, as one would write them."""
    web, embedded = role in (Role.WEB, Role.COMBINED), _is_embedded(settings)
    queues = settings.queue.driver == "database" and role is not Role.IMAGES
    drivers = (
        ("storage.driver = filesystem", settings.storage.driver == "filesystem"),
        ("database.url = sqlite", embedded and (web or queues)),
        # In a database server it is for any number of machines.
        ("queue.driver = database", embedded and queues),
        ("cache.driver = memory", web and settings.cache.driver == "memory"),
    )
    return [setting for setting, is_local in drivers if is_local]


def _is_embedded(settings: Settings) -> bool:
    return settings.database.url.get_secret_value().startswith("sqlite:")


def _shared_queues(settings: Settings) -> Iterator[str]:
    """Whoever reads a queue takes each message for its own: no two may be one."""
    config = settings.queue
    taken: dict[str, str] = {}
    for name in ("jobs", "results", "dead", "results_dead", "events", "updates"):
        url = getattr(config, f"{name}_url")
        if config.driver == "database":
            if name.endswith("dead"):
                continue
            # There are no URLs in the database, but names; see fxprofile.drivers.queues.
            url = url or (name if name in ("jobs", "results") else None)
            url = url and url.rpartition("/")[2]
            if url is not None and url.endswith("-dead"):
                yield f"queue.{name}_url: must not end in -dead, as queues of dead letters do"
        if url is not None and taken.setdefault(url, name) != name:
            yield f"queue.{name}_url: must be another queue than queue.{taken[url]}_url"


def _has(package: str) -> bool:
    """Whether a package is installed; it is not imported."""
    return find_spec(package) is not None


def _from_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not TOML: {error}") from None


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    """What is wrong with names in the environment, which :func:`_from_environment` passes over."""
    return [
        f"{name}: there is no such setting"
        for name in sorted(environ)
        if name.startswith(ENVIRONMENT_PREFIX)
        and name != CRASH_AT
        and name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")[0]
        not in Settings.model_fields
    ]


def _from_environment(name: str, value: str) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value}
    try:
        return dict(source())
    except Exception:
        # The error, and its cause, would quote the value, which may be a secret.
        raise ConfigError(f"{name}: the value must be JSON") from None


def _from_command_line(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        # Whoever wrote another sign may have written a secret behind it.
        key = re.split(r"[^a-z0-9_.]", key)[0]
        raise ConfigError(f"--set {key}: must be section.key=value")
    members: Any = value
    if value.startswith("["):
        # What has more than one value is written as in the environment and in the file.
        with suppress(ValueError, RecursionError):
            members = json.loads(value)
    for part in reversed(key.split(".")):
        members = {part: members}
    return dict(members)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _one_line(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such setting"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: must be a table of settings, not a value"
    if error["type"] == "tuple_type":
        return f'{key}: must be a list, as ["one", "two"] is'
    if error["type"] == "missing":
        return f"{key}: must be set"
    text = error["msg"].removeprefix("Value error, ").replace("\n", " ")
    if not key:
        return str(text)
    if error["type"] == "value_error" and " " in text and text.split()[0] in _KEYS:
        return f"{key}.{text}"
    return f"{key}: {text}"


_KEYS = {"url", "private_bucket", "issuer", "audience", "kms_key_id"}

"""
Reads the settings from the command line, the environment, a TOML file and the defaults.

Each source is one of pydantic-settings, which merges them in this order of precedence.
Each problem is one line that names the key.  It never quotes a value, which may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import product
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from fxprofile.model.errors import ConfigError
from fxprofile.settings.endpoints import is_loopback, listener_url
from fxprofile.settings.model import (
    ENVIRONMENT_PREFIX,
    SOURCES,
    ImagesSettings,
    Role,
    Settings,
    WebSettings,
    is_setting,
)

#: What one source gives: values by section and key.
Layer = dict[str, object]

#: Texts for errors that pydantic describes in terms of Python.
_TEXTS = {
    "extra_forbidden": "there is no such setting",
    "model_type": "must be a table of settings, which is a JSON object in the environment",
    "tuple_type": 'must be a list, such as ["one", "two"]',
    "missing": "must be set",
}


def load(
    *,
    config: str | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    role: Role = Role.COMBINED,
) -> Settings:
    """
    Return the settings, or raise the first problem.

    :param config: the path of a TOML file.
    :param overrides: ``section.key=value``, as given on the command line.
    :param environ: environment variables; by default those of this process.
    :param role: the role whose requirements the settings must meet.
    :raises ConfigError: the first problem, in one line.
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
    Return every problem of the settings, and the settings if there is none.

    The parameters are those of :func:`load`.
    """
    problems: list[str] = []
    from_file = _from_file(config, problems) if config else {}
    layers = [
        _from_command_line(overrides, problems),
        _from_environment(os.environ if environ is None else environ, problems),
        from_file or {},
    ]
    settings, errors = _validate(layers)
    problems += map(_one_line, errors)
    if errors:
        # Combinations are checked too, with the defaults of the sections that are invalid.
        for layer, invalid in product(layers, errors):
            layer.pop(str(invalid["loc"][0]), None)
        settings, _ = _validate(layers)
    if settings is not None:
        settings = settings.for_role(role)
    if settings is not None and from_file is not None:
        problems += _impossible_combinations(settings, role)
    return problems, None if problems else settings


class _Variables(EnvSettingsSource):
    """A source of variables; validation reports a value that is not JSON, with its key."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = variables

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: object) -> object:
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value


def _from_command_line(overrides: Iterable[str], problems: list[str]) -> Layer:
    variables = {}
    for override in overrides:
        # Nothing behind the key is quoted: after another sign than "=", it may be a secret.
        match = re.match(r"([a-z0-9_.]*)(=?)", override)
        key, equals = match.groups() if match else ("", "")
        if not equals:
            problems.append(f"--set {key}: must be section.key=value")
        elif not is_setting(key.split(".")):
            problems.append(f"{key}: there is no such setting")
        else:
            name = ENVIRONMENT_PREFIX + key.replace(".", "__")
            variables[name.lower()] = override.partition("=")[2]
    return _Variables(variables)()


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Layer:
    variables = {}
    for name, value in sorted(environ.items()):
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        if not is_setting(name.lower().removeprefix(ENVIRONMENT_PREFIX.lower()).split("__")):
            problems.append(f"{name}: there is no such setting")
        elif value:
            variables[name.lower()] = value
    return _Variables(variables)()


def _from_file(path: str, problems: list[str]) -> Layer | None:
    import tomllib

    # TomlConfigSettingsSource would ignore a file that is missing, and one that is a pipe.
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        problems.append(f"--config: cannot read {path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"--config: {path} is not TOML: {error}")
    return None


def _validate(layers: list[Layer]) -> tuple[Settings | None, list[ErrorDetails]]:
    sources: Any = tuple(InitSettingsSource(Settings, layer) for layer in layers)
    try:
        return Settings(**{SOURCES: sources}), []
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        # A default that depends on an invalid setting is no problem of its own.
        return None, [e for e in errors if e["type"] != "default_factory_not_called"]


def _one_line(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    text = error["msg"].removeprefix("Value error, ").replace("\n", " ")
    return f"{key}: {_TEXTS.get(error['type'], text)}"


def _impossible_combinations(settings: Settings, role: Role) -> Iterator[str]:
    """What a process of this role cannot run with, although each value is valid by itself."""
    identity, storage = settings.identity, settings.storage
    production = settings.environment == "production"
    # A signature alone does not say for which service a token was issued.
    for key, value in {"issuer": identity.issuer, "audience": identity.audience}.items():
        if identity.jwks_url is not None and not value:
            yield f"identity.{key}: must be set when identity.jwks_url is set"
    if storage.public_bucket == storage.private_bucket:
        yield "storage.public_bucket: must not be the same as storage.private_bucket"
    if storage.kms_key_id is not None and storage.encryption in (None, "AES256"):
        yield "storage.kms_key_id: needs storage.encryption = aws:kms or aws:kms:dsse"
    # An images process has no queues; the identity and the cache belong to the web role, and
    # the URL of the cache may have a password that other roles are not given.
    if role in (Role.WEB, Role.COMBINED):
        for key, section, url in (
            ("web", settings.web, "public_url"),
            ("images", settings.images, "url"),
        ):
            if url not in section.model_fields_set and listener_url(section.listen) is None:
                yield f"{key}.listen: has no TCP port from 1 to 65535, so set {key}.{url}"
        if identity.driver == "dev":
            if production:
                yield "identity.driver: dev is not for environment = production; use fxa"
            if not is_loopback(settings.web.listen):
                yield (
                    "web.listen: must be a loopback address, such as "
                    "tcp:1111:interface=127.0.0.1, when identity.driver is dev"
                )
        if production and settings.queue.events is None and settings.queue.events_url is None:
            yield (
                "queue.events_url: must be set in production: without account events, the data of"
                ' deleted accounts stays; queue.events = "none" accepts that'
            )
        if settings.queue.events is not None and settings.queue.events_url is not None:
            yield 'queue.events_url: must not be set when queue.events is "none"'
        if settings.cache.driver == "redis" and settings.cache.url is None:
            yield "cache.url: must be set when cache.driver is redis"
    if settings.queue.driver == "memory" and role in (Role.WEB, Role.WORKER):
        yield (
            "queue.driver: memory is for the combined role only;"
            " processes of other roles share database or sqs"
        )
    yield from _impossible_processes(settings, role)
    yield from _missing_packages(settings, role)
    if role is not Role.IMAGES:
        yield from _unusable_queues(settings)


def _impossible_processes(settings: Settings, role: Role) -> Iterator[str]:
    """Several processes where only one can be, or on a socket that they cannot share."""
    for key, own in (("web", Role.WEB), ("images", Role.IMAGES)):
        section: WebSettings | ImagesSettings = getattr(settings, key)
        if section.processes == 1:
            continue
        if role is Role.COMBINED:
            yield (
                f"{key}.processes: must be 1 in the combined role, which is one process; start"
                " the roles web, worker and images instead"
            )
        elif role is own and not re.match(r"tcp6?:|systemd:(?!.*domain=UNIX)", section.listen):
            yield (
                f"{key}.listen: must be a tcp, tcp6 or systemd endpoint when {key}.processes is"
                " not 1"
            )


def _missing_packages(settings: Settings, role: Role) -> Iterator[str]:
    """Optional packages that the settings of a role need and that are not installed."""
    web = role in (Role.WEB, Role.COMBINED)
    crunches = role in (Role.WORKER, Role.COMBINED)
    queues = role is not Role.IMAGES
    database = settings.database.url.get_secret_value().partition("+")[0]
    uses_database = web or (queues and settings.queue.driver == "database")
    for key, used, extra, module in (
        ("storage.driver", settings.storage.driver == "s3", "s3", "botocore"),
        ("queue.driver", settings.queue.driver == "sqs", "sqs", "botocore"),
        ("cache.driver", web and settings.cache.driver == "redis", "redis", "txredisapi"),
        ("database.url", uses_database and database == "mysql", "mysql", "pymysql"),
        ("database.url", uses_database and database == "postgresql", "postgresql", "psycopg"),
        ("crunch.heic", crunches and settings.crunch.heic, "heic", "pillow_heif"),
    ):
        if used and find_spec(module) is None:
            yield f"{key}: needs the package {module}; pip install 'fxprofile[{extra}]'"


def _unusable_queues(settings: Settings) -> Iterator[str]:
    """Queues that are missing or misnamed, and queues that are used for two purposes."""
    queue = settings.queue
    names = {"jobs": queue.jobs_url, "results": queue.results_url}
    optional = {"events": queue.events_url, "updates": queue.updates_url}
    if queue.driver == "sqs":
        for name, url in names.items():
            if url is None:
                yield f"queue.{name}_url: must be set when queue.driver is sqs"
        for name, url in optional.items():
            if url is not None and not url.startswith("http"):
                yield f"queue.{name}_url: must be a URL when queue.driver is sqs"
        names |= {"dead": queue.dead_url, "results_dead": queue.results_dead_url}
    used: dict[str, str] = {}
    for name, url in (names | optional).items():
        if queue.driver != "sqs":
            # A queue in the database has a name only; see fxprofile.app.services.
            url = (url or (name if name in names else "")).rpartition("/")[2]
            if url.endswith("-dead"):
                yield f"queue.{name}_url: must not end in -dead, as dead-letter queues do"
        if url and used.setdefault(url, name) != name:
            yield f"queue.{name}_url: must be another queue than queue.{used[url]}_url"

"""
The settings of a process.

They are read once, at the start, from the command line, the environment, a TOML file
and the defaults, in this order, into one frozen object.  What is wrong is one line
that names the key.  ``etc/fxprofile.toml`` documents every key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fxprofile.errors import ConfigError

ENVIRONMENT_PREFIX = "FXPROFILE_"

#: No setting, but where tests let the process die; see :mod:`fxprofile.crashpoints`.
CRASH_AT = "FXPROFILE_CRASH_AT"


class Role(StrEnum):
    """What a process is for; DESIGN section 2."""

    WEB = "web"
    WORKER = "worker"
    IMAGES = "images"
    COMBINED = "combined"


#: Where the admin listener of a role is when ``admin.listen`` is unset.
ADMIN_PORTS = {Role.WEB: 1114, Role.IMAGES: 1115, Role.WORKER: 1113, Role.COMBINED: 1114}


def _http_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise ValueError("must be an http or https URL without a query")
    return text.rstrip("/")


def _image_url(text: str) -> str:
    if "{id}" not in text:
        raise ValueError("must contain {id}")
    if not re.fullmatch(r"https?://[^\s/?#]+/[^\s?#]*", text):
        raise ValueError("must be an http or https URL")
    return text


HttpUrl = Annotated[str, AfterValidator(_http_url)]
# An SQS queue URL, or what the database driver calls the queue.
QueueUrl = Annotated[str, Field(pattern=r"^(https?://\S+|[a-z][a-z0-9-]{0,39})$")]
ImageUrl = Annotated[str, AfterValidator(_image_url)]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )


class Web(Section):
    listen: str = "tcp:1111:interface=127.0.0.1"
    public_url: HttpUrl = "http://127.0.0.1:1111"
    client_address_depth: Annotated[int, Field(ge=0, le=10)] = 1


class Images(Section):
    listen: str = "tcp:1112:interface=127.0.0.1"
    url: ImageUrl = "http://127.0.0.1:1112/a/{id}"
    max_age: Annotated[int, Field(ge=0)] = 86400


class Admin(Section):
    listen: str | None = None


class DevAccount(Section):
    token: SecretStr
    uid: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.@-]+$")]
    email: str
    scopes: tuple[str, ...] = ("profile", "profile:write")
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    two_factor: bool | None = None


class Dev(Section):
    accounts: tuple[DevAccount, ...] = (
        DevAccount(
            token=SecretStr("alice"),
            uid="a11ce000a11ce000a11ce000a11ce000",
            email="alice@example.com",
            locale="en-US",
            amr_values=("pwd",),
            two_factor=False,
        ),
        DevAccount(
            token=SecretStr("bob"),
            uid="b0b00000b0b00000b0b00000b0b00000",
            email="bob@example.com",
            locale="de",
            amr_values=("pwd", "otp"),
            two_factor=True,
        ),
    )


class Identity(Section):
    driver: Literal["dev", "fxa"] = "dev"
    oauth_url: HttpUrl = "http://127.0.0.1:9010/v1"
    auth_url: HttpUrl = "http://127.0.0.1:9000/v1"
    token_cache_seconds: Annotated[float, Field(ge=0)] = 0
    timeout: Seconds = 5
    jwks_url: HttpUrl | None = None
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    dev: Dev = Dev()

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        # A signature alone does not say for whom a token was made.
        if self.jwks_url is not None and not self.issuer:
            raise ValueError("issuer must be set when identity.jwks_url is set")
        if self.jwks_url is not None and not self.audience:
            raise ValueError("audience must be set when identity.jwks_url is set")
        return self


class Database(Section):
    url: SecretStr = SecretStr("sqlite:///var/profile.db")

    @model_validator(mode="after")
    def _known_driver(self) -> Self:
        url = self.url.get_secret_value()
        if not url.startswith(("sqlite:///", "mysql+pymysql://", "postgresql+psycopg://")):
            raise ValueError(
                "url must begin with sqlite:///, mysql+pymysql:// or postgresql+psycopg://"
            )
        return self


class Storage(Section):
    driver: Literal["filesystem", "s3"] = "filesystem"
    directory: Path = Path("var/buckets")
    private_bucket: BucketName = "fxprofile-private"
    public_bucket: BucketName = "fxprofile-public"
    endpoint_url: HttpUrl | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None

    @model_validator(mode="after")
    def _two_buckets(self) -> Self:
        if self.private_bucket == self.public_bucket:
            raise ValueError("private_bucket and public_bucket must not be the same")
        return self

    @model_validator(mode="after")
    def _key_for_kms(self) -> Self:
        if self.kms_key_id is not None and not (self.encryption or "").startswith("aws:kms"):
            raise ValueError("kms_key_id needs encryption = aws:kms or aws:kms:dsse")
        return self


class Queue(Section):
    driver: Literal["database", "sqs"] = "database"
    jobs_url: HttpUrl | None = None
    results_url: HttpUrl | None = None
    events_url: QueueUrl | None = None
    updates_url: QueueUrl | None = None
    dead_url: HttpUrl | None = None
    visibility_timeout: Annotated[int, Field(ge=2, le=43200)] = 60
    max_receives: Annotated[int, Field(ge=1, le=1000)] = 5
    endpoint_url: HttpUrl | None = None


class Aws(Section):
    region: str = "us-east-1"
    endpoint_url: HttpUrl | None = None


class Uploads(Section):
    max_bytes: Annotated[ByteSize, Field(ge=1, le=1 << 30)] = ByteSize(10 << 20)
    wait: Annotated[float, Field(ge=0, le=30)] = 5
    per_hour: Annotated[int, Field(ge=0)] = 60


class Crunch(Section):
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda: os.cpu_count() or 1
    )
    timeout: Seconds = 15
    cpu: Annotated[int, Field(ge=1)] = 10
    memory: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(1 << 30)
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    max_side: Annotated[int, Field(ge=1)] = 16384
    max_scans: Annotated[int, Field(ge=1)] = 100
    sandbox: Literal["strict", "best-effort", "off"] | None = None


class Cache(Section):
    driver: Literal["memory", "redis"] = "memory"
    url: SecretStr | None = None
    ttl: Seconds = 3600

    @model_validator(mode="after")
    def _url(self) -> Self:
        if self.driver == "redis" and self.url is None:
            raise ValueError("url must be set when cache.driver is redis")
        return self


class Customs(Section):
    url: HttpUrl | None = None


class Monogram(Section):
    enabled: bool = True


class Logging(Section):
    format: Literal["text", "mozlog"] = "text"
    level: Literal["debug", "info", "warn", "error", "critical"] = "info"


class Sentry(Section):
    dsn: SecretStr | None = None


class Settings(BaseSettings):
    """All settings; :func:`load` makes one."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    secret_bearer_token: SecretStr | None = None
    web: Web = Web()
    images: Images = Images()
    admin: Admin = Admin()
    identity: Identity = Identity()
    database: Database = Database()
    storage: Storage = Storage()
    queue: Queue = Queue()
    aws: Aws = Aws()
    uploads: Uploads = Uploads()
    crunch: Crunch = Crunch()
    cache: Cache = Cache()
    customs: Customs = Customs()
    monogram: Monogram = Monogram()
    logging: Logging = Logging()
    sentry: Sentry = Sentry()

    @property
    def sandbox(self) -> Literal["strict", "best-effort", "off"]:
        """``crunch.sandbox``, or its default for this environment."""
        default: Literal["strict", "best-effort"] = (
            "strict" if self.environment == "production" else "best-effort"
        )
        return self.crunch.sandbox or default

    def admin_listen(self, role: Role) -> str:
        """``admin.listen``, or its default for this role."""
        return self.admin.listen or f"tcp:{ADMIN_PORTS[role]}:interface=127.0.0.1"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load() merges the sources, so that it can say which one is wrong.
        return (init_settings,)


def is_loopback(endpoint: str) -> bool:
    """Whether a server endpoint string names a listener that only this machine reaches."""
    if endpoint.startswith("unix:"):
        return True
    match = re.search(r":interface=((?:\\.|[^:\\])*)", endpoint)
    interface = match.group(1).replace("\\", "") if match else ""
    return interface in ("localhost", "::1") or interface.startswith("127.")


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
        lambda: _from_environment(known),
        *(partial(_from_command_line, override) for override in overrides),
    ]
    for source in sources:
        try:
            members = _merge(members, source())
        except ConfigError as problem:
            problems.append(str(problem))
            whole = False
    try:
        settings = Settings(**members)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        return problems + [_one_line(e) for e in errors], None
    if whole:
        problems += _combinations(settings, role)
    return problems, None if problems else settings


def _combinations(settings: Settings, role: Role) -> Iterator[str]:
    """What is wrong with settings that are right one by one, for a process of this role."""
    if role in (Role.WEB, Role.COMBINED) and settings.identity.driver == "dev":
        if settings.environment == "production":
            yield "identity.driver: dev is not for environment = production; use fxa"
        if not is_loopback(settings.web.listen):
            yield "web.listen: must be a loopback address when identity.driver is dev"
    if role is not Role.IMAGES and settings.queue.driver == "sqs":
        for key in ("jobs_url", "results_url"):
            if getattr(settings.queue, key) is None:
                yield f"queue.{key}: must be set when queue.driver is sqs"
        for key in ("events_url", "updates_url"):
            if not (getattr(settings.queue, key) or "http").startswith("http"):
                yield f"queue.{key}: must be a URL when queue.driver is sqs"


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


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in environ.items() if value}
    try:
        return dict(source())
    except Exception as error:
        # The text of the error would quote the value, which may be a secret.
        raise ConfigError(f"environment: {ENVIRONMENT_PREFIX}*: a value is not JSON") from error


def _from_command_line(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {key}: must be section.key=value")
    members: Any = value
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
    text = error["msg"].removeprefix("Value error, ").replace("\n", " ")
    if not key:
        return str(text)
    if error["type"] == "value_error" and " " in text and text.split()[0] in _KEYS:
        return f"{key}.{text}"
    return f"{key}: {text}"


_KEYS = {"url", "private_bucket", "issuer", "audience", "kms_key_id"}

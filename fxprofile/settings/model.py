"""
The settings of a process.

:mod:`fxprofile.settings.load` reads them, once, into one frozen object.
``etc/fxprofile.toml`` documents every key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fxprofile.settings.capacity import default_slots, processors
from fxprofile.settings.endpoints import listener_url

ENVIRONMENT_PREFIX = "FXPROFILE_"

#: Seconds; there is no timer, and no key in Redis, that is for ever.
YEAR = 365 * 86400


class Role(StrEnum):
    """What a process is for; ``docs/operations.md`` says what each does."""

    WEB = "web"
    WORKER = "worker"
    IMAGES = "images"
    COMBINED = "combined"


#: The argument of :class:`Settings` that takes its sources; an earlier one takes precedence.
SOURCES = "_sources"

#: Where the admin listener of a role is when ``admin.listen`` is unset.
ADMIN_PORTS = {Role.WEB: 1114, Role.IMAGES: 1115, Role.WORKER: 1113, Role.COMBINED: 1114}


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s?#]", text):
        raise ValueError("must be an http or https URL with a host and without a query")
    return text.rstrip("/")


def _image_url(text: str) -> str:
    _http_url(text)
    if not re.fullmatch(r"[\w.~/-]*\{id\}[\w.~/-]*", urlsplit(text).path, re.ASCII):
        raise ValueError("must contain {id} in its path, once, and else letters, digits and ._~-/")
    return text


def _processes(value: object) -> object:
    return processors() if value == "auto" else value


def _matches(pattern: str, requirement: str) -> AfterValidator:
    """Return a validator of secrets, which an error of pydantic's own patterns would quote."""

    def check(secret: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, secret.get_secret_value()):
            raise ValueError(requirement)
        return secret

    return AfterValidator(check)


def _split(value: object) -> object:
    """Split words with commas, which the environment and the command line may have."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON array, or words separated by commas") from None
    return [word.strip() for word in value.split(",") if word.strip()]


def _formats(formats: tuple[str, ...]) -> tuple[str, ...]:
    if "png" not in formats:
        raise ValueError("must contain png, which every browser supports")
    if len(set(formats)) < len(formats):
        raise ValueError("must not name a format twice")
    return formats


# RFC 6750, section 2.1: a client can send no other characters.
BearerToken = Annotated[
    SecretStr,
    _matches(
        r"([A-Za-z0-9._~+/-]+=*)?", "may have letters, digits and ._~+/- only, and = at its end"
    ),
]
# sentry-sdk checks a DSN too, but only the roles that report errors import it.
Dsn = Annotated[
    SecretStr,
    _matches(
        r"(https?://[^\s/?#@:]+(:[^\s/?#@:]*)?@(\[[0-9a-fA-F:.]+\]|[^\s/?#@:]+)(:\d{1,5})?"
        r"(/[^\s?#]*)?/\d+)?",
        "must be https://KEY@HOST/PROJECT, where PROJECT is a number",
    ),
]
DatabaseUrl = Annotated[
    SecretStr,
    _matches(
        r"(?s)(sqlite:///|mysql\+pymysql://|postgresql\+psycopg://).*",
        "must begin with sqlite:///, mysql+pymysql:// or postgresql+psycopg://",
    ),
]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
# An SQS queue URL, or what the database driver calls the queue.
QueueUrl = Annotated[str, Field(pattern=r"^(https?://\S+|[a-z][a-z0-9-]{0,39})$")]
ImageUrl = Annotated[str, AfterValidator(_image_url)]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Seconds = Annotated[float, Field(gt=0, le=YEAR, allow_inf_nan=False)]
Processes = Annotated[int, Field(ge=1, le=256), BeforeValidator(_processes)]
Connections = Annotated[int, Field(ge=0, le=1_000_000)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
HeaderNames = Annotated[
    # RFC 9110, section 5.1.
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], ...],
    NoDecode,
    BeforeValidator(_split),
]
Formats = Annotated[
    tuple[Literal["png", "webp", "avif"], ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_formats),
]


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        # The validator of all settings includes that of each section.
        defer_build=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_bool(cls, value: object, info: ValidationInfo) -> object:
        # Python, and so pydantic, accepts True for 1.
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("must not be true or false")
        return value


def _section() -> Any:
    """Return the field of a section whose settings have their defaults."""
    return Field(default_factory=dict, validate_default=True)


def _own_url(validated: dict[str, object]) -> str:
    # load() refuses a listener without a URL, where the URL is needed.
    return listener_url(str(validated["listen"])) or "http://localhost"


class WebSettings(Section):
    listen: str = "tcp:1111:interface=127.0.0.1"
    processes: Processes = 1
    public_url: HttpUrl = Field(default_factory=_own_url)
    client_address_depth: Annotated[int, Field(ge=0, le=10)] = 0
    cors_headers: HeaderNames = ()
    max_connections: Connections = 10_000
    max_connections_per_address: Connections = 256


class ImagesSettings(Section):
    listen: str = "tcp:1112:interface=127.0.0.1"
    processes: Processes = 1
    url: ImageUrl = Field(default_factory=lambda validated: f"{_own_url(validated)}/a/{{id}}")
    max_age: Annotated[int, Field(ge=0)] = 86400
    max_stale: Annotated[int, Field(ge=0)] = 86400
    purge_url: HttpUrl | None = None
    purge_token: BearerToken | None = None
    max_connections: Connections = 10_000
    max_connections_per_address: Connections = 256


class AdminSettings(Section):
    listen: str | None = None


class DevAccount(Section):
    token: SecretStr
    uid: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.@-]+$")]
    email: str
    scopes: tuple[str, ...] = ("profile", "profile:write")
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    two_factor: bool | None = None


class DevSettings(Section):
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


class IdentitySettings(Section):
    driver: Literal["dev", "fxa"] = "dev"
    oauth_url: HttpUrl = "http://127.0.0.1:9010/v1"
    auth_url: HttpUrl = "http://127.0.0.1:9000/v1"
    token_cache_seconds: Annotated[float, Field(ge=0, le=YEAR)] = 0
    timeout: Seconds = 5
    jwks_url: HttpUrl | None = None
    issuer: str | None = None
    audience: Words = ()
    dev: DevSettings = _section()


class DatabaseSettings(Section):
    url: DatabaseUrl = SecretStr("sqlite:///var/profile.db")


class StorageSettings(Section):
    driver: Literal["filesystem", "s3"] = "filesystem"
    directory: Path = Path("var/buckets")
    private_bucket: BucketName = "fxprofile-private"
    public_bucket: BucketName = "fxprofile-public"
    reserve: Annotated[ByteSize, Field(ge=0)] | None = None
    endpoint_url: HttpUrl | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    payload: Literal["auto", "trailer", "signed", "unsigned"] = "auto"
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None


class QueueSettings(Section):
    driver: Literal["memory", "database", "sqs"] | None = None
    jobs_url: HttpUrl | None = None
    results_url: HttpUrl | None = None
    events: Literal["none"] | None = None
    events_url: QueueUrl | None = None
    updates_url: QueueUrl | None = None
    dead_url: HttpUrl | None = None
    results_dead_url: HttpUrl | None = None
    visibility_timeout: Annotated[int, Field(ge=2, le=43200)] = 60
    max_receives: Annotated[int, Field(ge=1, le=1000)] = 5
    endpoint_url: HttpUrl | None = None


class AwsSettings(Section):
    # It becomes part of the names of hosts.
    region: Annotated[str, Field(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$")] = (
        "us-east-1"
    )
    endpoint_url: HttpUrl | None = None


class UploadsSettings(Section):
    max_bytes: Annotated[ByteSize, Field(ge=1, le=1 << 30)] = ByteSize(10 << 20)
    wait: Annotated[float, Field(ge=0, le=30)] = 5
    per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    max_pending: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_pending_per_user: Annotated[int, Field(ge=1, le=1000)] = 3
    max_age: Seconds = 20


def _slots(validated: dict[str, object]) -> int:
    # It is absent if it is invalid, which is an error of its own.
    return min(1024, default_slots(cast(int, validated.get("memory", 1 << 30))))


class CrunchSettings(Section):
    timeout: Seconds = 15
    cpu: Annotated[int, Field(ge=1)] = 10
    memory: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(1 << 30)
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=_slots)
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    max_pixels_baseline: Annotated[int, Field(ge=1)] = 250_000_000
    max_pixels_progressive: Annotated[int, Field(ge=1)] = 120_000_000
    max_side: Annotated[int, Field(ge=1)] = 16384
    max_scans: Annotated[int, Field(ge=1)] = 100
    formats: Formats = ("png",)
    fit: Literal["inside", "cover"] = "inside"
    heic: bool = Field(default_factory=lambda: find_spec("pillow_heif") is not None)
    sandbox: Literal["strict", "best-effort", "off"] | None = None


class CacheSettings(Section):
    driver: Literal["memory", "redis"] = "memory"
    url: SecretStr | None = None
    ttl: Seconds = 3600


class CustomsSettings(Section):
    url: HttpUrl | None = None


class LimitsSettings(Section):
    writes_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 60


class MonogramSettings(Section):
    enabled: bool = True


class LoggingSettings(Section):
    format: Literal["text", "mozlog"] = "text"
    level: Literal["debug", "info", "warn", "error", "critical"] = "info"
    rotate_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(10 << 20)
    rotate_keep: Annotated[int, Field(ge=1, le=1000)] = 10


class SentrySettings(Section):
    dsn: Dsn | None = None


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
    secret_bearer_token: BearerToken | None = None
    web: WebSettings = _section()
    images: ImagesSettings = _section()
    admin: AdminSettings = _section()
    identity: IdentitySettings = _section()
    database: DatabaseSettings = _section()
    storage: StorageSettings = _section()
    queue: QueueSettings = _section()
    aws: AwsSettings = _section()
    uploads: UploadsSettings = _section()
    crunch: CrunchSettings = _section()
    cache: CacheSettings = _section()
    customs: CustomsSettings = _section()
    limits: LimitsSettings = _section()
    monogram: MonogramSettings = _section()
    logging: LoggingSettings = _section()
    sentry: SentrySettings = _section()

    @property
    def sandbox(self) -> Literal["strict", "best-effort", "off"]:
        """``crunch.sandbox``, or its default for this environment."""
        return self.crunch.sandbox or (
            "strict" if self.environment == "production" else "best-effort"
        )

    def for_role(self, role: Role) -> Settings:
        """Return these settings with the defaults that depend on the role."""
        if self.queue.driver is not None:
            return self
        # fxprofile-admin reads the settings as the images role does, which has no queues.
        driver = "database" if role in (Role.WEB, Role.WORKER) else "memory"
        return self.model_copy(update={"queue": self.queue.model_copy(update={"driver": driver})})

    def processes(self, role: Role) -> int:
        """How many processes a role has on this machine, besides their supervisor."""
        own = {Role.WEB: self.web.processes, Role.IMAGES: self.images.processes}
        return own.get(role, 1)

    def admin_listen(self, role: Role) -> str:
        """``admin.listen``, or its default for this role."""
        return self.admin.listen or f"tcp:{ADMIN_PORTS[role]}:interface=127.0.0.1"

    def single_host_drivers(self, role: Role) -> list[str]:
        """Return the settings of a role that tie it to one machine, as one would write them."""
        web = role in (Role.WEB, Role.COMBINED)
        queues = self.queue.driver == "database" and role is not Role.IMAGES
        memory = self.queue.driver == "memory" and role is Role.COMBINED
        sqlite = self.database.url.get_secret_value().startswith("sqlite:")
        drivers = {
            "storage.driver = filesystem": self.storage.driver == "filesystem",
            "database.url = sqlite": sqlite and (web or queues),
            # The queues of a database server serve any number of machines.
            "queue.driver = database": sqlite and queues,
            "queue.driver = memory": memory,
            "cache.driver = memory": web and self.cache.driver == "memory",
        }
        return [setting for setting, is_single_host in drivers.items() if is_single_host]

    def doubts(self, role: Role) -> list[str]:
        """Return what is probably a mistake in the settings of a role, in one line each."""
        queue = self.queue
        found: list[str] = []
        if self.environment == "production":
            found += self._production_doubts(role)
        if role in (Role.WEB, Role.COMBINED) and queue.driver == "sqs":
            effects = {
                "dead_url": "uploads whose job is dead stay in processing for a day",
                "results_dead_url": "dead results are never applied",
            }
            found += [
                f"queue.{key}: is not set, so {effect}; fxprofile-admin provision prints it"
                for key, effect in effects.items()
                if getattr(queue, key) is None
            ]
        if role is Role.WEB and self.web.processes > 1 and self.cache.driver == "memory":
            found += self._unshared_doubts()
        crunches = role in (Role.WORKER, Role.COMBINED)
        if crunches and queue.visibility_timeout < self.crunch.timeout:
            # The lease is extended, but one extension that fails then ends it.
            found.append(
                f"queue.visibility_timeout: {queue.visibility_timeout} s is less than"
                f" crunch.timeout ({self.crunch.timeout:g} s), so a short outage of the queue has"
                " other workers repeat jobs"
            )
        return found

    def _unshared_doubts(self) -> Iterator[str]:
        several = f"web.processes is {self.web.processes}"
        yield (
            f"cache.driver: memory is of one process, and {several}, so no profile is cached and"
            " each process has its own rate limits; use redis"
        )
        if self.identity.token_cache_seconds:
            yield (
                f"identity.token_cache_seconds: {several} without a Redis, so a revoked token is"
                " trusted for so long by the processes that did not receive the account event"
            )

    def _production_doubts(self, role: Role) -> Iterator[str]:
        for setting in self.single_host_drivers(role):
            key, _, driver = setting.partition(" = ")
            yield f"{key}: {driver} serves a single host only"
        if role not in (Role.WEB, Role.COMBINED):
            return
        if self.secret_bearer_token is None:
            yield "secret_bearer_token: is not set, so the auth server's own endpoints answer 404"
        if "public_url" not in self.web.model_fields_set:
            yield "web.public_url: is not set, so clients get the address of web.listen"
        if "accounts" in self.identity.dev.model_fields_set:
            yield "identity.dev.accounts: are for development; remove them and their tokens"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *others: object, **sources: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in the argument :data:`SOURCES`, or the arguments alone."""
        arguments = cast(InitSettingsSource, sources["init_settings"])
        return arguments.init_kwargs.pop(SOURCES, (arguments,))


def is_setting(path: Sequence[str]) -> bool:
    """Return whether the first name of a path is a setting, or a section if more follow."""
    field = Settings.model_fields.get(path[0])
    return field is not None and (len(path) == 1 or field.annotation in Section.__subclasses__())


def values(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield each setting with its value, such as ``("logging.level", "info")``."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""
The settings of a process.

:mod:`fxprofile.settings.load` reads them, once, into one frozen object.
``etc/fxprofile.toml`` documents every key.
"""

from __future__ import annotations

import json
import os
import re
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
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
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENVIRONMENT_PREFIX = "FXPROFILE_"

#: Seconds; there is no timer, and no key in Redis, that is for ever.
YEAR = 365 * 86400

#: No setting, but where tests let the process die; see :mod:`fxprofile.app.crashpoints`.
CRASH_AT = "FXPROFILE_CRASH_AT"


class Role(StrEnum):
    """What a process is for; ``README.md`` says what each does."""

    WEB = "web"
    WORKER = "worker"
    IMAGES = "images"
    COMBINED = "combined"


#: Where the admin listener of a role is when ``admin.listen`` is unset.
ADMIN_PORTS = {Role.WEB: 1114, Role.IMAGES: 1115, Role.WORKER: 1113, Role.COMBINED: 1114}


def _http_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise ValueError("must be an http or https URL without a query")
    _check_server(text)
    return text.rstrip("/")


def _check_server(url: str) -> None:
    """
    Look at the host and the port of a URL.

    :raises ValueError: if nobody could be asked there.
    """
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be a URL with a host, and with a port from 1 to 65535 if any")


def _image_url(text: str) -> str:
    if "{id}" not in text:
        raise ValueError("must contain {id}")
    if not re.fullmatch(r"https?://[^\s/?#]+/[^\s?#]*", text):
        raise ValueError("must be an http or https URL")
    _check_server(text)
    return text


def _bearer_token(secret: SecretStr) -> SecretStr:
    # RFC 6750, section 2.1: nothing else can be sent.
    if not re.fullmatch(r"([A-Za-z0-9._~+/-]+=*)?", secret.get_secret_value()):
        raise ValueError("may have letters, digits and ._~+/- only, and = at its end")
    return secret


def _dsn(secret: SecretStr) -> SecretStr:
    address = r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:]+)(:\d{1,5})?"
    form = rf"(https?://[^\s/?#@:]+(:[^\s/?#@:]*)?@{address}(/[^\s?#]*)?/\d+)?"
    if not re.fullmatch(form, secret.get_secret_value()):
        raise ValueError("must be https://KEY@HOST/PROJECT, where PROJECT is a number")
    return secret


def _split(value: object) -> object:
    # As the environment and the command line have it: JSON, or words with commas.
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON array, or words with commas between") from None
    return [word.strip() for word in value.split(",") if word.strip()]


def _formats(formats: tuple[str, ...]) -> tuple[str, ...]:
    if "png" not in formats:
        raise ValueError("must contain png, which every browser takes")
    if len(set(formats)) < len(formats):
        raise ValueError("must not name a format twice")
    return formats


BearerToken = Annotated[SecretStr, AfterValidator(_bearer_token)]
Dsn = Annotated[SecretStr, AfterValidator(_dsn)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
# An SQS queue URL, or what the database driver calls the queue.
QueueUrl = Annotated[str, Field(pattern=r"^(https?://\S+|[a-z][a-z0-9-]{0,39})$")]
ImageUrl = Annotated[str, AfterValidator(_image_url)]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Seconds = Annotated[float, Field(gt=0, le=YEAR, allow_inf_nan=False)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Formats = Annotated[
    tuple[Literal["png", "webp", "avif"], ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_formats),
]


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        # Which Python, and so pydantic, takes for 1.
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("must not be true or false")
        return value


class WebSettings(Section):
    listen: str = "tcp:1111:interface=127.0.0.1"
    public_url: HttpUrl = "http://127.0.0.1:1111"
    client_address_depth: Annotated[int, Field(ge=0, le=10)] = 1


class ImagesSettings(Section):
    listen: str = "tcp:1112:interface=127.0.0.1"
    url: ImageUrl = "http://127.0.0.1:1112/a/{id}"
    max_age: Annotated[int, Field(ge=0)] = 86400


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
    dev: DevSettings = DevSettings()

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        # A signature alone does not say for whom a token was made.
        if self.jwks_url is not None and not self.issuer:
            raise ValueError("issuer must be set when identity.jwks_url is set")
        if self.jwks_url is not None and not self.audience:
            raise ValueError("audience must be set when identity.jwks_url is set")
        return self


class DatabaseSettings(Section):
    url: SecretStr = SecretStr("sqlite:///var/profile.db")

    @model_validator(mode="after")
    def _known_driver(self) -> Self:
        url = self.url.get_secret_value()
        if not url.startswith(("sqlite:///", "mysql+pymysql://", "postgresql+psycopg://")):
            raise ValueError(
                "url must begin with sqlite:///, mysql+pymysql:// or postgresql+psycopg://"
            )
        return self


class StorageSettings(Section):
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


class QueueSettings(Section):
    driver: Literal["database", "sqs"] = "database"
    jobs_url: HttpUrl | None = None
    results_url: HttpUrl | None = None
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


class CrunchSettings(Section):
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda: os.cpu_count() or 1
    )
    timeout: Seconds = 15
    cpu: Annotated[int, Field(ge=1)] = 10
    memory: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(1 << 30)
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    max_side: Annotated[int, Field(ge=1)] = 16384
    max_scans: Annotated[int, Field(ge=1)] = 100
    formats: Formats = ("png",)
    heic: bool = False
    sandbox: Literal["strict", "best-effort", "off"] | None = None


class CacheSettings(Section):
    driver: Literal["memory", "redis"] = "memory"
    url: SecretStr | None = None
    ttl: Seconds = 3600


class CustomsSettings(Section):
    url: HttpUrl | None = None


class MonogramSettings(Section):
    enabled: bool = True


class LoggingSettings(Section):
    format: Literal["text", "mozlog"] = "text"
    level: Literal["debug", "info", "warn", "error", "critical"] = "info"


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
    web: WebSettings = WebSettings()
    images: ImagesSettings = ImagesSettings()
    admin: AdminSettings = AdminSettings()
    identity: IdentitySettings = IdentitySettings()
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    queue: QueueSettings = QueueSettings()
    aws: AwsSettings = AwsSettings()
    uploads: UploadsSettings = UploadsSettings()
    crunch: CrunchSettings = CrunchSettings()
    cache: CacheSettings = CacheSettings()
    customs: CustomsSettings = CustomsSettings()
    monogram: MonogramSettings = MonogramSettings()
    logging: LoggingSettings = LoggingSettings()
    sentry: SentrySettings = SentrySettings()

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
    interfaces = re.findall(r":interface=((?:\\.|[^:\\])*)", endpoint)
    # Of several the last one counts, so all of them have to be.
    hosts = {interface.replace("\\", "") for interface in interfaces} - {"localhost"}
    try:
        return bool(interfaces) and all(ip_address(host).is_loopback for host in hosts)
    except ValueError:
        return False

"""
The JSON bodies of the API: what clients send, and what they receive.

Request bodies are pydantic models, and are validated by them.  Response bodies are typed
dictionaries: pydantic gives their JSON Schema to ``/openapi.json``, mypy checks the handlers
that build them, and nothing validates them at run time.  A class ``ThingBody`` is the schema
``Thing`` in the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final, NotRequired, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, with_config
from pydantic.config import JsonDict

# pydantic cannot read the TypedDict of the standard library before Python 3.12.
from typing_extensions import TypedDict

from fxprofile.model.avatars import REASONS, Status
from fxprofile.model.errors import ApiError, BadRequest
from fxprofile.model.keys import DEFAULT_AVATAR_ID, MAX_LETTER
from fxprofile.model.profiles import Account

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

#: Maximum length of a display name, in characters.
MAX_NAME: Final = 256

#: Values for the examples in the document.
ID: Final = "9f86d081884c7d659a2feaa0c55ad015"
URL: Final = f"https://images.example/a/{ID}"
MONOGRAM_URL: Final = "https://profile.example/v1/avatar/z"
UID: Final = "6d940dd41e636cc156074109b8092f96"
PLACEHOLDER: Final = "LEHV6nWB2yk8pyo0adR*.7kCMdnj"

# Controls, line and paragraph separators, private use, interlinear annotation and
# noncharacters, as in the original service.  Lone surrogates are no valid text for pydantic.
# The syntax is common to JSON Schema, Python and the Rust engine of pydantic.
_ALLOWED: Final = (
    r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029\ue000-\uf8ff\ufff9-\ufffc\ufffe\uffff"
    "\U000f0000-\U000ffffd\U00100000-\U0010fffd]*$"
)

_PROBLEMS: Final = {
    "missing": "must be a string.",
    "string_type": "must be a string.",
    "string_too_long": f"may have at most {MAX_NAME} characters.",
    "string_unicode": "has a control, private or invalid character.",
    "string_pattern_mismatch": "has a control, private or invalid character.",
}

DisplayName = Annotated[
    str, Field(strict=True, max_length=MAX_NAME, pattern=_ALLOWED, examples=["Zoë"])
]
AvatarId = Annotated[
    str,
    Field(pattern="^[0-9a-f]{32}$", examples=[ID], description="The id of an avatar or upload."),
]
Letter = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4 * MAX_LETTER,
        examples=["z"],
        description=f"One character: at most {MAX_LETTER} code points in Unicode's form NFC.",
    ),
]
Uid = Annotated[str, Field(examples=[UID], description="The id of a user.")]
Url = Annotated[str, Field(json_schema_extra={"format": "uri"})]
Placeholder = Annotated[
    str,
    Field(
        description="A BlurHash of the picture, to show until the picture is loaded.",
        examples=[PLACEHOLDER],
    ),
]
UploadStatus = Annotated[
    str, Field(json_schema_extra={"enum": [s.value for s in Status if s is not Status.DELETING]})
]
FailureReason = Annotated[str, Field(json_schema_extra={"enum": list(REASONS)})]
IfNoneMatch = Annotated[
    str, Field(description="ETags that the client has; a match gives 304.", examples=[f'"{ID}"'])
]
Svg = Annotated[
    str, Field(description="The picture; it may be cached for a week.", examples=["<svg …>"])
]
OpenApiDocument = Annotated[
    dict[str, object], Field(description="The document.", examples=[{"openapi": "3.1.0"}])
]


def _closed(*examples: JsonDict) -> Callable[[type[T]], type[T]]:
    """Forbid other members than the declared ones, and give examples."""
    extra: JsonDict = {"examples": list(examples)} if examples else {}
    return with_config(ConfigDict(extra="forbid", json_schema_extra=extra))


class SetDisplayName(BaseModel):
    """The new display name; an empty one removes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"displayName": "Zoë"}]})
    display_name: DisplayName = Field(alias="displayName")


class SetDisplayNameOfUser(BaseModel):
    """The new display name of a user; an empty one removes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Zoë"}]})
    name: DisplayName


def validated(model: type[M], members: Mapping[str, object]) -> M:
    """
    Validate a request body.

    :raises BadRequest: with the first problem, as a sentence for the client.
    """
    try:
        return model.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    raise BadRequest(f"{name} {_PROBLEMS.get(first['type'], 'is not valid.')}")


@_closed({})
class EmptyBody(TypedDict):
    """Done."""


@_closed({"uid": UID})
class UidBody(TypedDict):
    """The user id."""

    uid: Uid


@_closed({"email": "user@example.com"})
class EmailBody(TypedDict, total=False):
    """The email address; absent if the account has none."""

    email: str


@_closed({"displayName": "Zoë"})
class DisplayNameBody(TypedDict):
    """The display name."""

    displayName: DisplayName


@_closed({"subscriptions": ["vpn"]})
class SubscriptionsBody(TypedDict):
    """What the user has subscribed to, as the client calls it."""

    subscriptions: list[str]


@with_config(ConfigDict(json_schema_extra={"examples": [{"access_token": "TOKEN"}]}))
class TokenForm(TypedDict, total=False):
    """The bearer token, unless it is in the Authorization header (RFC 6750, section 2.2)."""

    access_token: str


@_closed({"uid": UID, "displayName": "Zoë", "avatarDefault": True, "metricsEnabled": True})
class ProfileBody(Account, total=False):
    """The fields that the scopes of the token allow; absent data is left out."""

    uid: Uid
    sub: Annotated[str, Field(description="The uid, for OpenID Connect.")]
    displayName: DisplayName
    avatar: Url
    avatarId: AvatarId
    avatarDefault: bool


@_closed()
class PendingUploadBody(TypedDict):
    """A newer upload that is being processed."""

    id: AvatarId
    status: UploadStatus


@_closed(
    {"id": ID, "avatar": URL, "avatarDefault": False, "url": URL, "placeholder": PLACEHOLDER},
    {
        "id": DEFAULT_AVATAR_ID,
        "avatar": MONOGRAM_URL,
        "avatarDefault": False,
        "url": MONOGRAM_URL,
        "pending": {"id": ID, "status": "processing"},
    },
)
class AvatarBody(TypedDict):
    """The current avatar."""

    id: Annotated[
        AvatarId, Field(description=f"{DEFAULT_AVATAR_ID} stands for the default avatar.")
    ]
    avatar: Url
    avatarDefault: bool
    url: Annotated[Url, Field(description="The same as `avatar`, for older clients.")]
    placeholder: NotRequired[Placeholder]
    pending: NotRequired[PendingUploadBody]


@_closed()
class UploadFailureBody(TypedDict):
    """Why an upload failed."""

    reason: FailureReason
    message: str


@_closed()
class UploadBody(TypedDict):
    """The upload and its status."""

    id: AvatarId
    url: Url
    status: UploadStatus
    placeholder: NotRequired[Placeholder]
    error: NotRequired[UploadFailureBody]


def _errnos(kind: type[ApiError]) -> set[int]:
    own = {kind.errno} if hasattr(kind, "errno") else set()
    return own.union(*map(_errnos, kind.__subclasses__()))


@_closed()
class ErrorBody(TypedDict):
    """An error."""

    code: Annotated[int, Field(description="The HTTP status.")]
    errno: Annotated[int, Field(json_schema_extra={"enum": sorted(_errnos(ApiError))})]
    error: Annotated[str, Field(description="The reason phrase of the status.")]
    message: Annotated[str, Field(description="One sentence for a person.")]
    reason: NotRequired[FailureReason]
    maxBytes: NotRequired[Annotated[int, Field(description="The size limit of an upload.")]]
    retryAfter: NotRequired[Annotated[int, Field(description="The same as `Retry-After`.")]]

"""
The words of the service: avatars, jobs and results, and their form on the queues.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeGuard

from fxprofile.errors import MalformedMessage
from fxprofile.keys import VARIANTS, is_id

#: The version of the messages on the jobs and results queues.
MESSAGE_VERSION: Final = 1

#: A longer message is not one of ours.
MAX_MESSAGE_CHARACTERS: Final = 4096

#: Why an upload failed: the words that users and operators see.
REASONS: Final = {
    "unsupported": "This is not a JPEG, PNG, GIF, WebP or AVIF image.",
    "corrupt": "The image is damaged or incomplete.",
    "too_many_pixels": "The image has too many pixels.",
    "too_large": "The image has too much in it to be processed.",
    "timeout": "The image took too long to process.",
    "memory": "The image needs too much memory to process.",
    "crashed": "The image could not be processed.",
    "lost": "The upload was lost; please upload the image again.",
    "dead": "The image could not be processed after several tries.",
}


#: 28 digits of base 83: a BlurHash of 4 x 3 components.
_BLURHASH: Final = re.compile(r"[0-9A-Za-z#$%*+,\-.:;=?@\[\]^_{|}~]{28}")


def is_placeholder(text: object) -> TypeGuard[str]:
    """
    Whether this is a placeholder, which a page can show until it has the picture: a BlurHash
    (https://github.com/woltapp/blurhash/blob/master/Algorithm.md) of 4 x 3 components.
    """
    return isinstance(text, str) and _BLURHASH.fullmatch(text) is not None


class Status(StrEnum):
    """The state of an avatar; ``docs/architecture.md`` draws the transitions."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    REPLACED = "replaced"
    DELETING = "deleting"


class Op(StrEnum):
    """What a job asks a worker to do."""

    CRUNCH = "crunch"
    DELETE = "delete"


class Outcome(StrEnum):
    """What a worker reports."""

    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


@dataclass(frozen=True)
class Variant:
    """One encoded picture: its sides in pixels and its length in bytes."""

    width: int
    height: int
    bytes: int


#: The pictures of one format: for each name of :data:`fxprofile.keys.VARIANTS`, what it is,
#: and its bytes.
Pictures = Mapping[str, tuple[Variant, bytes]]


@dataclass(frozen=True)
class Crunched:
    """
    What a cruncher makes of an original.

    :ivar pictures: by format, of those in :data:`fxprofile.keys.FORMATS` that are wanted;
        PNG is always there.
    :ivar placeholder: see :func:`is_placeholder`; None if there is none.
    """

    pictures: Mapping[str, Pictures]
    placeholder: str | None = None


@dataclass(frozen=True)
class Avatar:
    """
    A row of the avatars table.

    :ivar seq: grows with each accepted upload: the newest one wins.
    :ivar job_sent: when the job of the present state was put on the queue, or None
        if the outbox still owes it.
    :ivar created: when the upload was accepted, in seconds since the epoch.
    :ivar error: one word of :data:`REASONS` if the status is failed.
    :ivar placeholder: see :func:`is_placeholder`; None until it is ready.
    """

    id: str
    uid: str
    seq: int
    status: Status
    job_sent: float | None
    created: float
    error: str | None = None
    placeholder: str | None = None


@dataclass(frozen=True)
class Profile:
    """
    What the database holds of a user.

    :ivar changed_at: when this last changed, in seconds since the epoch.
    """

    uid: str
    display_name: str | None = None
    avatar_id: str | None = None
    changed_at: float = 0.0


@dataclass(frozen=True)
class Message:
    """
    A message received from a queue.

    :ivar receipt_handle: names this receipt; the next one gives another.
    :ivar receive_count: how often it was received, this time included.
    :ivar sent: when it was sent, in seconds since the epoch.
    """

    message_id: str
    body: str
    receipt_handle: str
    receive_count: int
    sent: float


@dataclass(frozen=True)
class QueueDepth:
    """
    How many messages a queue holds.

    :ivar visible: messages that wait.
    :ivar in_flight: messages that somebody has received and not yet deleted.
    :ivar oldest: age of the oldest waiting message in seconds, None if there is
        none or the queue does not tell.
    """

    visible: int
    in_flight: int
    oldest: float | None = None


@dataclass(frozen=True)
class ObjectInfo:
    """
    What a bucket knows of an object.

    :ivar etag: an opaque tag without quotes, other for other bytes.
    :ivar modified: seconds since the epoch.
    """

    key: str
    length: int
    etag: str
    modified: float


@dataclass(frozen=True)
class Credentials:
    """
    What the OAuth server says of a token.

    :ivar profile_changed_at: when the account last changed, in milliseconds since
        the epoch, as the OAuth server counts, or None if it does not say.
    :ivar expires_at: when the token ends, in seconds since the epoch, or None.
    """

    uid: str
    scopes: tuple[str, ...]
    profile_changed_at: int | None = None
    client_id: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True)
class Account:
    """What the auth server says of an account; what it left out is None."""

    email: str | None = None
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    two_factor: bool | None = None


@dataclass(frozen=True)
class Job:
    """A message on the jobs queue."""

    op: Op
    id: str

    def encode(self, sent: float) -> str:
        """
        The message.

        :param sent: seconds since the epoch.
        """
        return json.dumps(
            {
                "v": MESSAGE_VERSION,
                "op": self.op,
                "id": self.id,
                "sent": datetime.fromtimestamp(sent, UTC).isoformat().replace("+00:00", "Z"),
            }
        )

    @classmethod
    def decode(cls, text: str) -> Job:
        """
        Read a message.

        :raises MalformedMessage: if it is not of the form that :meth:`encode` gives.
        """
        message = _members(text)
        try:
            op = Op(message.get("op", ""))
        except ValueError:
            raise MalformedMessage(f"op is {message.get('op')!r:.40}") from None
        return cls(op=op, id=message["id"])


@dataclass(frozen=True)
class Result:
    """
    A message on the results queue.

    :ivar variants: by the names of :data:`fxprofile.keys.VARIANTS`, if ready.
    :ivar reason: one word of :data:`REASONS`, if failed.
    :ivar placeholder: see :func:`is_placeholder`, if ready and known.
    :ivar timing: seconds that the steps took, by name; for people.
    """

    id: str
    status: Outcome
    reason: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    placeholder: str | None = None
    timing: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> str:
        """The message."""
        message: dict[str, Any] = {"v": MESSAGE_VERSION, "id": self.id, "status": self.status}
        if self.reason is not None:
            message["error"] = {"reason": self.reason}
        if self.variants:
            message["variants"] = {
                name: {"width": v.width, "height": v.height, "bytes": v.bytes}
                for name, v in self.variants.items()
            }
        if self.placeholder is not None:
            message["placeholder"] = self.placeholder
        message["timing"] = {name: round(s, 4) for name, s in self.timing.items()}
        return json.dumps(message)

    @classmethod
    def decode(cls, text: str) -> Result:
        """
        Read a message.

        :raises MalformedMessage: if it is not of the form that :meth:`encode` gives.
        """
        message = _members(text)
        try:
            status = Outcome(message.get("status", ""))
        except ValueError:
            raise MalformedMessage(f"status is {message.get('status')!r:.40}") from None
        reason = None
        if status is Outcome.FAILED:
            error = message.get("error")
            reason = error.get("reason") if isinstance(error, dict) else None
            if not isinstance(reason, str) or reason not in REASONS:
                raise MalformedMessage("a failed result without a known reason")
        variants, placeholder = {}, None
        if status is Outcome.READY:
            variants = _variants(message.get("variants"))
            placeholder = message.get("placeholder")
            if placeholder is not None and not is_placeholder(placeholder):
                raise MalformedMessage("the placeholder is no BlurHash")
        timing = message.get("timing")
        if not isinstance(timing, dict):
            timing = {}
        return cls(
            id=message["id"],
            status=status,
            reason=reason,
            variants=variants,
            placeholder=placeholder,
            timing={k: v for k, v in timing.items() if type(v) in (int, float)},
        )


def _members(text: str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise MalformedMessage(f"{len(text)} characters are too many")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedMessage("not JSON") from None
    if not isinstance(message, dict):
        raise MalformedMessage("not a JSON object")
    version = message.get("v")
    if type(version) is not int or version != MESSAGE_VERSION:
        raise MalformedMessage(f"version is {version!r:.40}")
    if not is_id(message.get("id")):
        raise MalformedMessage("id is not an avatar id")
    return message


def _variants(members: object) -> dict[str, Variant]:
    if not isinstance(members, dict) or set(members) != set(VARIANTS):
        raise MalformedMessage(f"variants are not {', '.join(VARIANTS)}")
    variants = {}
    for name, sides in members.items():
        if not isinstance(sides, dict):
            raise MalformedMessage(f"variant {name} is not an object")
        width, height, length = (sides.get(key) for key in ("width", "height", "bytes"))
        if not (_is_positive(width) and _is_positive(height) and _is_positive(length)):
            raise MalformedMessage(f"variant {name} lacks width, height or bytes")
        variants[name] = Variant(width=width, height=height, bytes=length)
    return variants


def _is_positive(number: object) -> TypeGuard[int]:
    return type(number) is int and number > 0

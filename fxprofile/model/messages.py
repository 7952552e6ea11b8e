"""Queue messages: jobs and results, and their JSON encoding."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from fxprofile.model.avatars import BLURHASH, DIGEST, REASONS, Variant
from fxprofile.model.avatars import ResultStatus as ResultStatus
from fxprofile.model.errors import MalformedMessage
from fxprofile.model.keys import VARIANTS, is_id

#: The version of the messages on the jobs and results queues.
MESSAGE_VERSION: Final = 1

#: The maximum length; a longer message is malformed.
MAX_MESSAGE_CHARACTERS: Final = 4096

#: The duration of a step of a job that is believed, in seconds: a day.
MAX_SECONDS: Final = 86400


class Op(StrEnum):
    """The operation that a job requests from a worker."""

    CRUNCH = "crunch"
    DELETE = "delete"


@dataclass(frozen=True)
class Message:
    """
    A message received from a queue.

    :ivar receipt_handle: identifies this receive; each receive has its own.
    :ivar receive_count: how often the message was received, including this time.
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
    The number of messages on a queue.

    :ivar visible: messages that can be received.
    :ivar in_flight: messages that were received and not yet deleted.
    :ivar oldest: age of the oldest visible message in seconds; None if there is none or the
        queue does not provide it.
    """

    visible: int
    in_flight: int
    oldest: float | None = None


@dataclass(frozen=True)
class Job:
    """
    A message on the jobs queue.

    :ivar traceparent: the trace of the request that it follows from (W3C Trace Context).
    """

    op: Op
    id: str
    traceparent: str | None = None

    def encode(self, sent: float) -> str:
        """
        Return the JSON text.

        :param sent: seconds since the epoch.
        """
        message = {
            "v": MESSAGE_VERSION,
            "op": self.op,
            "id": self.id,
            "sent": datetime.fromtimestamp(sent, UTC).isoformat().replace("+00:00", "Z"),
        }
        if self.traceparent is not None:
            message["traceparent"] = self.traceparent
        return json.dumps(message)

    @classmethod
    def decode(cls, text: str) -> Job:
        """
        Parse the JSON text.

        :raises MalformedMessage: if it has not the form that :meth:`encode` returns.
        """
        message = _members(text)
        try:
            op = Op(message.get("op", ""))
        except ValueError:
            raise MalformedMessage(f"op is {message.get('op')!r:.40}") from None
        return cls(op=op, id=message["id"], traceparent=_traceparent(message))


@dataclass(frozen=True)
class Result:
    """
    A message on the results queue.

    :ivar variants: by name of :data:`fxprofile.model.keys.VARIANTS`, if ready.
    :ivar reason: a key of :data:`REASONS`, if failed.
    :ivar placeholder: see :data:`BLURHASH`, if ready and known.
    :ivar pixels: the digest of the picture's pixels, if ready and known, see
        :data:`fxprofile.model.avatars.DIGEST`.
    :ivar timing: seconds that each step took, by name; for operators.
    :ivar traceparent: the trace of the job (W3C Trace Context).
    """

    id: str
    status: ResultStatus
    reason: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    placeholder: str | None = None
    pixels: str | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    traceparent: str | None = None

    def encode(self) -> str:
        """Return the JSON text."""
        message: dict[str, Any] = {"v": MESSAGE_VERSION, "id": self.id, "status": self.status}
        if self.reason is not None:
            message["error"] = {"reason": self.reason}
        if self.variants:
            message["variants"] = {name: asdict(v) for name, v in self.variants.items()}
        if self.placeholder is not None:
            message["placeholder"] = self.placeholder
        if self.pixels is not None:
            message["pixels"] = self.pixels
        message["timing"] = {name: round(s, 4) for name, s in self.timing.items()}
        if self.traceparent is not None:
            message["traceparent"] = self.traceparent
        return json.dumps(message)

    @classmethod
    def decode(cls, text: str) -> Result:
        """
        Parse the JSON text.

        :raises MalformedMessage: if it has not the form that :meth:`encode` returns.
        """
        message = _members(text)
        try:
            status = ResultStatus(message.get("status", ""))
        except ValueError:
            raise MalformedMessage(f"status is {message.get('status')!r:.40}") from None
        reason = None
        if status is ResultStatus.FAILED:
            error = message.get("error")
            reason = error.get("reason") if isinstance(error, dict) else None
            if not isinstance(reason, str) or reason not in REASONS:
                raise MalformedMessage("a failed result has no known reason")
        variants, placeholder, pixels = {}, None, None
        if status is ResultStatus.READY:
            variants = _variants(message.get("variants"))
            placeholder = _matching(message, "placeholder", BLURHASH)
            pixels = _matching(message, "pixels", DIGEST)
        timing = message.get("timing")
        if not isinstance(timing, dict):
            timing = {}
        return cls(
            id=message["id"],
            status=status,
            reason=reason,
            variants=variants,
            placeholder=placeholder,
            pixels=pixels,
            # NaN, which JSON of Python may have, is in no range.
            timing={
                k: v for k, v in timing.items() if type(v) in (int, float) and 0 <= v < MAX_SECONDS
            },
            traceparent=_traceparent(message),
        )


def traceparent_of(text: str) -> str | None:
    """Return the trace that a job or a result continues; None if it has none, or is malformed."""
    try:
        return _traceparent(_members(text))
    except MalformedMessage:
        return None


def _traceparent(members: Mapping[str, Any]) -> str | None:
    value = members.get("traceparent")
    return value if isinstance(value, str) else None


def _members(text: str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise MalformedMessage(f"{len(text)} characters are more than {MAX_MESSAGE_CHARACTERS}")
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


def _matching(members: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str | None:
    """Return an optional member of a fixed form."""
    value = members.get(name)
    if value is None or (isinstance(value, str) and form.fullmatch(value)):
        return value
    raise MalformedMessage(f"{name} has not the form {form.pattern}")


def _variants(members: object) -> dict[str, Variant]:
    if not isinstance(members, dict) or set(members) != set(VARIANTS):
        raise MalformedMessage(f"variants are not {', '.join(VARIANTS)}")
    variants = {}
    for name, sides in members.items():
        match sides:
            # JSON's true is an int in Python, and no length.
            case {"width": width, "height": height, "bytes": length} if all(
                type(number) is int and number > 0 for number in (width, height, length)
            ):
                variants[name] = Variant(width=width, height=height, bytes=length)
            case _:
                raise MalformedMessage(f"variant {name} lacks width, height or bytes")
    return variants

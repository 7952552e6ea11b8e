"""Queue messages: jobs and results, and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeGuard

from fxprofile.model.avatars import REASONS, Variant, is_placeholder
from fxprofile.model.errors import MalformedMessage
from fxprofile.model.keys import VARIANTS, is_id

#: The version of the messages on the jobs and results queues.
MESSAGE_VERSION: Final = 1

#: A longer message is not one of ours.
MAX_MESSAGE_CHARACTERS: Final = 4096


class Op(StrEnum):
    """What a job asks a worker to do."""

    CRUNCH = "crunch"
    DELETE = "delete"


class ResultStatus(StrEnum):
    """What a worker reports."""

    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


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

    :ivar variants: by the names of :data:`fxprofile.model.keys.VARIANTS`, if ready.
    :ivar reason: one word of :data:`REASONS`, if failed.
    :ivar placeholder: see :func:`is_placeholder`, if ready and known.
    :ivar timing: seconds that the steps took, by name; for people.
    """

    id: str
    status: ResultStatus
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
            status = ResultStatus(message.get("status", ""))
        except ValueError:
            raise MalformedMessage(f"status is {message.get('status')!r:.40}") from None
        reason = None
        if status is ResultStatus.FAILED:
            error = message.get("error")
            reason = error.get("reason") if isinstance(error, dict) else None
            if not isinstance(reason, str) or reason not in REASONS:
                raise MalformedMessage("a failed result without a known reason")
        variants, placeholder = {}, None
        if status is ResultStatus.READY:
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

"""Avatars: their states, their pictures, and why an upload failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeGuard

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


@dataclass(frozen=True)
class Variant:
    """One encoded picture: its sides in pixels and its length in bytes."""

    width: int
    height: int
    bytes: int


#: The pictures of one format: for each name of :data:`fxprofile.model.keys.VARIANTS`, what it is,
#: and its bytes.
Pictures = Mapping[str, tuple[Variant, bytes]]


@dataclass(frozen=True)
class Crunched:
    """
    What a cruncher makes of an original.

    :ivar pictures: by format, of those in :data:`fxprofile.model.keys.FORMATS` that are wanted;
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

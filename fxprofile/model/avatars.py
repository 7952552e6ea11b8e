"""Avatars: their states, their pictures, and the reasons of failed uploads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: The reasons for which an upload can fail, with the message for the user.
REASONS: Final = {
    "unsupported": "This is not a JPEG, PNG, GIF, WebP or AVIF image.",
    "corrupt": "The image is damaged or incomplete.",
    "too_many_pixels": "The image has too many pixels.",
    "too_wide": "The image is too wide or too high.",
    "too_large": "The image is too complex to be processed.",
    "timeout": "The image took too long to process.",
    "memory": "The image needs too much memory to process.",
    "crashed": "The image could not be processed.",
    "lost": "The upload was lost; please upload the image again.",
    "dead": "The image could not be processed after several tries.",
    "quarantined": "This picture is blocked here; please choose another one.",
}

#: The reason of an upload whose bytes or pixels an operator has quarantined.
QUARANTINED: Final = "quarantined"

#: The form of a digest: SHA-256 in hex.
DIGEST: Final = re.compile(r"[0-9a-f]{64}")

#: The form of a placeholder, which a page shows until the picture is loaded: a BlurHash of
#: 4 x 3 components, in 28 digits of base 83
#: (https://github.com/woltapp/blurhash/blob/master/Algorithm.md).
BLURHASH: Final = re.compile(r"[0-9A-Za-z#$%*+,\-.:;=?@\[\]^_{|}~]{28}")


class ResultStatus(StrEnum):
    """The outcome of a job."""

    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


class Status(StrEnum):
    """The state of an avatar; ``docs/architecture.md`` draws the transitions."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    REPLACED = "replaced"
    DELETING = "deleting"


@dataclass(frozen=True)
class Variant:
    """An encoded picture: its sides in pixels and its length in bytes."""

    width: int
    height: int
    bytes: int


#: The pictures of one format: description and bytes, for each name of
#: :data:`fxprofile.model.keys.VARIANTS`.
Pictures = Mapping[str, tuple[Variant, bytes]]


@dataclass(frozen=True)
class Crunched:
    """
    The pictures that a cruncher made from an original.

    :ivar pictures: by format, a name of :data:`fxprofile.model.keys.FORMATS`; always with PNG.
    :ivar placeholder: see :data:`BLURHASH`; None if there is none.
    :ivar pixels: the digest of the largest picture's pixels, see :data:`DIGEST`; None if
        unknown.
    """

    pictures: Mapping[str, Pictures]
    placeholder: str | None = None
    pixels: str | None = None


@dataclass(frozen=True)
class Avatar:
    """
    A row of the avatars table.

    :ivar seq: a number that increases with each accepted upload; the newest one wins.
    :ivar job_sent: when the job of the current status was sent, in seconds since the epoch;
        None if it is pending.
    :ivar created: when the upload was accepted, in seconds since the epoch.
    :ivar error: a key of :data:`REASONS` if the status is failed; see :attr:`failure`.
    :ivar placeholder: see :data:`BLURHASH`; None until the avatar is ready.
    :ivar source_digest: of the upload's bytes, see :data:`DIGEST`; None if unknown.
    """

    id: str
    uid: str
    seq: int
    status: Status
    job_sent: float | None
    created: float
    error: str | None = None
    placeholder: str | None = None
    source_digest: str | None = None

    @property
    def failure(self) -> str:
        """Why the upload failed; "crashed" for a reason that only a newer version knows."""
        return self.error if self.error in REASONS else "crashed"


@dataclass(frozen=True)
class QuarantineEntry:
    """
    A picture that may not be uploaded again, and the audit record of that decision.

    An upload matches by either digest.

    :ivar created_by: the operator.
    :ivar reason: why, for other operators.
    :ivar source_digest: of an upload's bytes, see :data:`DIGEST`; None if unknown.
    :ivar pixels_digest: of the largest picture's pixels, likewise.
    :ivar avatar_id: the avatar that was taken down, if one was named.
    """

    created_by: str
    reason: str
    source_digest: str | None = None
    pixels_digest: str | None = None
    avatar_id: str | None = None

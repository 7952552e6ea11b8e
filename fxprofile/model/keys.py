"""
Object keys in the buckets, and image URLs.

All object keys are made here, so that no other code joins strings that a client may have
chosen.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

from fxprofile.model.errors import StorageError

#: S3's limit on the length of an object key, in bytes of UTF-8.  Ours are ASCII.
MAX_KEY_BYTES: Final = 1024

#: The avatar id of users without an avatar.
DEFAULT_AVATAR_ID: Final = "0" * 32

#: The prefix of all keys in the public bucket.
PUBLIC_PREFIX: Final = "a/"

#: The key of the object by which a bucket is checked, and a prefix of such keys: no upload has it.
PROBE: Final = "probe"

#: The variants of an avatar: the suffix of the key, and the side of the bounding box in pixels.
VARIANTS: Final = {
    "default": ("", 200),
    "small": ("_small", 100),
    "large": ("_large", 600),
}

#: The maximum length of the letter of a monogram with its combining marks, in code points.
MAX_LETTER: Final = 8

# No more code points than these compose to MAX_LETTER.  Normalization takes quadratic time.
_MAX_DECOMPOSED: Final = 4 * MAX_LETTER

#: The formats of pictures: the suffix of the key, and the media type.  PNG always exists, and
#: its keys are the paths of URLs.
FORMATS: Final = {
    "png": ("", "image/png"),
    "webp": (".webp", "image/webp"),
    "avif": (".avif", "image/avif"),
}

_HEX = re.compile(r"[0-9a-f]{32}")
_IMAGE = re.compile(r"[0-9a-f]{32}(?:_small|_large)?")
_PUBLIC = re.compile(PUBLIC_PREFIX + r"([0-9a-f]{32})(?:_small|_large)?(?:\.webp|\.avif)?")
_PART = r"[0-9a-zA-Z_-][0-9a-zA-Z._-]*"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")


def key_parts(key: str) -> list[str]:
    """
    Return the parts of an object key, which every bucket driver accepts or rejects alike.

    A part holds only ASCII letters, digits, ``.``, ``_`` and ``-``, and does not begin with a
    dot, so that as a file name it is neither hidden nor leads to another folder.

    :raises StorageError: if this is not a valid key.
    """
    if len(key) > MAX_KEY_BYTES or _KEY.fullmatch(key) is None:
        raise StorageError(f"not a valid object key: {key!r:.80}")
    return key.split("/")


def check_key_prefix(prefix: str) -> None:
    """
    Check that a valid key may begin with this text, or sort after it.

    :raises StorageError: if not.
    """
    if len(prefix) > MAX_KEY_BYTES or _PREFIX.fullmatch(prefix) is None:
        raise StorageError(f"not a valid key prefix: {prefix!r:.80}")


def new_id() -> str:
    """Return the id of a new upload: 128 random bits in hex."""
    return secrets.token_hex(16)


def is_id(text: object) -> bool:
    """Return whether this is an avatar id: 32 lower-case hex digits."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def is_uid(text: object) -> bool:
    """Return whether this is the uid of a Firefox account: 32 lower-case hex digits."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def is_image_name(text: str) -> bool:
    """Return whether this may follow ``/a/`` in the URL of an image."""
    return _IMAGE.fullmatch(text) is not None


def private_key(avatar_id: str) -> str:
    """
    Return the key of an original in the private bucket.

    :raises ValueError: if this is not an avatar id.
    """
    if not is_id(avatar_id):
        raise ValueError(f"not an avatar id: {avatar_id!r}")
    return avatar_id


def public_key(avatar_id: str, variant: str = "default", form: str = "png") -> str:
    """
    Return the key of one variant in the public bucket; that of a PNG is also its URL path.

    :param form: a name of :data:`FORMATS`.
    :raises ValueError: if this is not an avatar id.
    :raises KeyError: if there is no such variant or format.
    """
    if not is_id(avatar_id):
        raise ValueError(f"not an avatar id: {avatar_id!r}")
    return f"{PUBLIC_PREFIX}{avatar_id}{VARIANTS[variant][0]}{FORMATS[form][0]}"


def id_of_public_key(key: str) -> str | None:
    """Return the avatar id in a key of the public bucket; None for any other key."""
    match = _PUBLIC.fullmatch(key)
    return match and match.group(1)


def public_keys(avatar_id: str, forms: Iterable[str] = tuple(FORMATS)) -> list[str]:
    """
    Return the keys of an avatar in the public bucket.

    :param forms: names of :data:`FORMATS`; all of them if left out.
    """
    return [public_key(avatar_id, variant, form) for form in forms for variant in VARIANTS]


def image_url(template: str, avatar_id: str, variant: str = "default") -> str:
    """
    Return the URL of one variant.

    :param template: the setting ``images.url``, which contains ``{id}``.
    """
    return template.replace("{id}", avatar_id + VARIANTS[variant][0])


def initial(text: str) -> str | None:
    """
    Return the letter or digit that a text begins with, for the monogram of a user with this
    name; None if the text begins with another character.

    The letter is as written, in Unicode's form NFC, with at most :data:`MAX_LETTER` code
    points: itself and combining marks.
    """
    character = _first_character(text)
    return character if character[:1].isalnum() else None


def monogram(text: str) -> str | None:
    """
    Return the letter that the monogram of a character shows: ``?`` unless it is a letter or
    digit.

    :returns: None if the text is not exactly one character, or has more combining marks than
        :func:`initial` leaves.
    """
    character = _first_character(text)
    if not character or len(text) > _MAX_DECOMPOSED or character != _composed(text):
        return None
    return character if character[0].isalnum() else "?"


def _first_character(text: str) -> str:
    composed = _composed(text[:_MAX_DECOMPOSED])[:MAX_LETTER]
    marks = takewhile(lambda c: unicodedata.category(c).startswith("M"), composed[1:])
    return composed[:1] + "".join(marks)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)

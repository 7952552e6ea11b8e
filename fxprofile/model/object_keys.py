"""
Which keys a bucket takes: the same ones whichever driver it has.
"""

from __future__ import annotations

import re
from typing import Final

from fxprofile.model.errors import StorageError

#: S3's limit on the length of a key, in bytes of UTF-8.  Ours are ASCII.
MAX_KEY_BYTES: Final = 1024

_PART = r"[0-9a-zA-Z_-][0-9a-zA-Z._-]*"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")


def key_parts(key: str) -> list[str]:
    """
    The parts of a key.

    A part holds only ASCII letters, digits, ``.``, ``_`` and ``-``, and does not begin
    with a dot, so that as the name of a file it can neither be hidden nor lead
    anywhere else.

    :raises StorageError: if this is not a key.
    """
    if len(key) > MAX_KEY_BYTES or _KEY.fullmatch(key) is None:
        raise StorageError(f"not a key: {key!r:.80}")
    return key.split("/")


def check_prefix(prefix: str) -> None:
    """
    See whether some key may begin with this text, or sort behind it.

    :raises StorageError: if not.
    """
    if len(prefix) > MAX_KEY_BYTES or _PREFIX.fullmatch(prefix) is None:
        raise StorageError(f"not the beginning of a key: {prefix!r:.80}")

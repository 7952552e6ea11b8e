"""
The default avatar, in its three sizes.

The pictures are part of the package; ``etc/default-avatar/draw.py`` draws them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fxprofile.images.memory_cache import CachedObject
from fxprofile.model.keys import DEFAULT_AVATAR_ID, VARIANTS, public_key
from fxprofile.model.ports import ObjectInfo

_DIRECTORY: Final = Path(__file__).with_name("default")


def read_default_avatar() -> Mapping[str, CachedObject]:
    """
    Read the pictures, and return them by the keys that they would have in the public bucket.

    This blocks for 15 KiB.

    :raises OSError: if the package is incomplete.
    """
    pictures = {}
    for variant, (_, side) in VARIANTS.items():
        path = _DIRECTORY / f"{side}.png"
        data = path.read_bytes()
        key = public_key(DEFAULT_AVATAR_ID, variant)
        # The tag is the same on every machine, and changes only with the picture.
        info = ObjectInfo(
            key=key,
            length=len(data),
            etag=hashlib.sha256(data).hexdigest()[:32],
            modified=path.stat().st_mtime,
        )
        pictures[key] = CachedObject(info, data, source="default")
    return pictures

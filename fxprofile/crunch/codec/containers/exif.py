"""
The orientation in EXIF data.

Pillow stops at the first invalid entry, and also reads the orientation from XMP, which no
browser does.  This module reads the one tag that matters.
"""

from __future__ import annotations

from typing import Final, Literal

_TAG: Final = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4


def orientation(exif: bytes) -> int:
    """
    Return the orientation that EXIF data declares; 1, which is upright, if there is none.

    :param exif: a TIFF header and its directories (CIPA DC-008, section 4.5), with or without
        the marker ``Exif`` before it.
    """
    tiff = exif[6:] if exif.startswith(b"Exif\0") else exif
    if tiff[:4] == b"II*\0":
        order: Literal["little", "big"] = "little"
    elif tiff[:4] == b"MM\0*":
        order = "big"
    else:
        return 1
    at = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[at : at + 2], order)
    # A directory that claims more entries than the data can hold ends with the data.
    for start in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        if int.from_bytes(tiff[start : start + 2], order) != _TAG:
            continue
        size = {_BYTE: 1, _SHORT: 2, _LONG: 4}.get(
            int.from_bytes(tiff[start + 2 : start + 4], order)
        )
        if size is not None:
            value = int.from_bytes(tiff[start + 8 : start + 8 + size], order)
            if 1 <= value <= 8:
                return value
    return 1

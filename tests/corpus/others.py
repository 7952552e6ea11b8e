"""Files of other formats, which must not reach a decoder."""

from __future__ import annotations

import gzip
import pickle
import random
import struct
from collections.abc import Iterator

from tests.corpus import Entry, entry
from tests.corpus.drawing import drawing, saved

XXE = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text><script>alert(1)</script></svg>"""
PIPE = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\nshowpage\n"
MVG = b"push graphic-context\nviewbox 0 0 9 9\nfill 'url(https://x/\"|id\")'\npop graphic-context\n"


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    no = "unsupported"
    yield entry("empty", lambda: b"", no)
    yield entry("one byte", lambda: b"\xff", no)
    yield entry("random", lambda: b"\x01" + random.Random(88).randbytes(5000), no)
    yield entry("SVG", lambda: XXE, no)
    yield entry("HTML", lambda: b"<!DOCTYPE html><script>alert(1)</script>", no)
    yield entry("EPS", lambda: PIPE, no)
    for form in ("TIFF", "BMP", "ICO", "JPEG2000", "PPM", "TGA", "PDF"):
        yield entry(form, lambda f=form: saved(drawing(64, 64), f), no)
    yield entry(
        "PSD", lambda: b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 64, 64, 8, 3) + bytes(64), no
    )
    yield entry("MVG", lambda: MVG, no)
    yield entry("a PNG in gzip", lambda: gzip.compress(saved(drawing(64, 64), "PNG")), no)
    yield entry("FITS", lambda: b"SIMPLE  =                    T".ljust(2880), no)
    yield entry("a pickle", lambda: pickle.dumps({"v": 1, "pictures": {}}), no)
    yield entry("a result file", lambda: struct.pack(">I", 8) + b'{"v": 1}', no)
    yield entry("MP4", lambda: struct.pack(">I", 24) + b"ftypisom\0\0\0\0isomiso2" + bytes(64), no)
    yield entry("RIFF sound", lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(28), no)

"""Tests of the check of what children hand back."""

from __future__ import annotations

import json
import struct
import zlib
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch import result
from fxprofile.crunch.codec import png
from fxprofile.model.avatars import Variant
from tests.corpus.drawing import drawing, photo, saved
from tests.corpus.png import chunk, header

SIGNATURE = png.SIGNATURE
IDAT = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
IEND = chunk(b"IEND")
IHDR = header(8, 8)


@cache
def pictures() -> dict[str, tuple[Variant, bytes]]:
    found = {}
    for name, side in (("large", 60), ("default", 20), ("small", 10)):
        body = png.encode(photo(side, side))
        found[name] = (Variant(side, side, len(body)), body)
    return found


GOOD = result.encode(result.Outcome(kind="png", sides=(80, 80), peak=1 << 27, pictures=pictures()))


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from(">I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def with_header(**changes: Any) -> bytes:
    """A good result with another header."""
    found, bodies = header_of(GOOD)
    text = json.dumps({k: v for k, v in (found | changes).items() if v is not None}).encode()
    return struct.pack(">I", len(text)) + text + bodies


class DecodeTests(SynchronousTestCase):
    """What is taken for a result."""

    def refuse(self, data: bytes) -> None:
        with self.assertRaises(result.BadResult):
            result.decode(data)

    def test_good(self) -> None:
        """What a child writes is read as it was meant."""
        outcome = result.decode(GOOD)
        self.assertEqual(outcome.pictures, pictures())
        self.assertEqual((outcome.kind, outcome.sides, outcome.reason), ("png", (80, 80), None))

    def test_reason(self) -> None:
        """A reason is read, and its detail cannot break a log."""
        wanted = result.Outcome(reason="corrupt", detail="bad \n\x1b[31m ü" + "x" * 500, peak=3)
        outcome = result.decode(result.encode(wanted))
        self.assertEqual(outcome.reason, "corrupt")
        self.assertTrue(outcome.detail.isascii() and outcome.detail.isprintable())
        self.assertLess(len(outcome.detail), 400)

    def test_cut(self) -> None:
        """A result that was cut anywhere is none."""
        for length in (*range(40), *range(40, len(GOOD), 97), len(GOOD) - 1):
            self.refuse(GOOD[:length])

    def test_longer(self) -> None:
        """Nor is one with something behind it."""
        self.refuse(GOOD + b"\0")

    def test_header(self) -> None:
        """Every member of the header has to be what it ought to be."""
        sides = {"default": [20, 20, 1], "small": [10, 10, 1], "large": [60, 60, 1]}
        for changes in (
            {"v": 2},
            {"v": None},
            {"pictures": None},
            {"pictures": []},
            {"pictures": {**sides, "huge": [1, 1, 1]}},
            {"pictures": {**sides, "small": [10, 10]}},
            {"pictures": {**sides, "small": [10, 10, 1.0]}},
            {"pictures": {**sides, "small": [True, 10, 1]}},
            {"pictures": {**sides, "small": [10, 0, 1]}},
            {"pictures": {**sides, "small": [101, 10, 1]}},
            {"pictures": {**sides, "small": [10, 10, (64 << 10) + 1]}},
            {"pictures": {**sides, "small": [10, 10, -1]}},
            {"sides": [1]},
            {"sides": ["1", 1]},
            {"placeholder": "<script>"},
            {"placeholder": "L" * 27},
            {"placeholder": None},
            {"peak": -1},
            {"peak": 10**30},
            {"reason": "corrupt"},
            {"reason": 7},
            {"reason": "crashed"},
            {"reason": "no such reason"},
        ):
            self.refuse(with_header(**changes))

    def test_unknown_kind(self) -> None:
        """A kind that nobody knows is not repeated."""
        for kind in ("<script>", "", None, 7, ["png"], {"png": 1}):
            self.assertEqual(result.decode(with_header(kind=kind)).kind, "")
        self.assertEqual(result.decode(with_header(kind="png")).kind, "png")

    def test_no_header(self) -> None:
        """A header that is no JSON object, or too long, or too deep, is none."""
        for text in (b"", b"[]", b"nul", b"\xff", b"[" * 4000, b'{"v": 1}' + b" " * 5000):
            self.refuse(struct.pack(">I", len(text)) + text)
        self.refuse(b"\xff\xff\xff\xff" + GOOD[4:])

    def test_swapped(self) -> None:
        """Pictures in another order than they are in are none."""
        found, _ = header_of(GOOD)
        members = found["pictures"]
        members["small"], members["default"] = members["default"], members["small"]
        self.refuse(with_header(pictures=members))

    @given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
    def test_flipped(self, at: int, bits: int) -> None:
        """A change of any byte is seen, or changes nothing that is published."""
        data = bytearray(GOOD)
        data[at] ^= bits
        try:
            outcome = result.decode(bytes(data))
        except result.BadResult:
            return
        self.assertEqual(outcome.pictures, pictures())

    @given(st.binary(max_size=300))
    def test_anything(self, data: bytes) -> None:
        """Any bytes are a result or none."""
        try:
            result.decode(data)
        except result.BadResult:
            return
        self.assertTrue(data)


class CheckPngTests(SynchronousTestCase):
    """What is taken for a PNG of ours."""

    def refuse(self, *parts: bytes) -> None:
        with self.assertRaises(result.BadResult):
            result.check_png(b"".join(parts))

    def test_good(self) -> None:
        """The least PNG that there can be."""
        self.assertEqual(result.check_png(b"".join((SIGNATURE, IHDR, IDAT, IEND))), (8, 8))

    def test_metadata(self) -> None:
        """No chunk that could tell something of anybody."""
        text = chunk(b"tEXt", b"Comment\0GPS")
        self.refuse(SIGNATURE, IHDR, text, IDAT, IEND)
        for options in (
            {"exif": b"Exif\0\0II*\0"},
            {"icc_profile": b"icc"},
            {"dpi": (72, 72)},
        ):
            self.refuse(saved(drawing(8, 8), "PNG", **options))

    def test_order(self) -> None:
        """Each chunk once, and in its place."""
        srgb = chunk(b"sRGB", b"\0")
        self.refuse(SIGNATURE, IDAT, IHDR, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, srgb, IEND)
        self.refuse(SIGNATURE, IHDR, IHDR, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IEND)
        self.refuse(SIGNATURE, IDAT, IEND)

    def test_ends(self) -> None:
        """Nothing before the signature, nothing behind the end."""
        self.refuse(b"GIF89a", SIGNATURE, IHDR, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IEND, b"<script>")
        self.refuse(SIGNATURE, IHDR, IDAT, chunk(b"IEND", b"x"))
        self.refuse(SIGNATURE, IHDR, IDAT)
        self.refuse(b"")

    def test_checksum(self) -> None:
        """Each checksum is right."""
        self.refuse(SIGNATURE, IHDR, chunk(b"IDAT", b"x", right=False), IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IEND[:-1] + b"\0")

    def test_length(self) -> None:
        """No chunk is longer than the file."""
        self.refuse(SIGNATURE, IHDR, b"\xff\xff\xff\xffIDAT", IEND)
        self.refuse(SIGNATURE, struct.pack(">I", 12) + b"IHDR", bytes(16), IDAT, IEND)

    def test_kinds(self) -> None:
        """Only kinds that our encoder writes."""
        for depth, colour in ((16, 2), (1, 0), (2, 6), (8, 5), (8, 3)):
            self.refuse(SIGNATURE, header(8, 8, depth, colour), IDAT, IEND)
        self.refuse(SIGNATURE, header(8, 8, lacing=1), IDAT, IEND)

    def test_palettes(self) -> None:
        """A palette only where one is needed, and of a length that it can have."""
        indexed = header(8, 8, 2, 3)
        palette = chunk(b"PLTE", bytes(12))
        good = b"".join((SIGNATURE, indexed, palette, chunk(b"tRNS", b"\0"), IDAT, IEND))
        self.assertEqual(result.check_png(good), (8, 8))
        self.refuse(SIGNATURE, IHDR, palette, IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE", bytes(11)), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE", bytes(15)), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE"), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, palette, chunk(b"tRNS", bytes(5)), IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, chunk(b"tRNS", bytes(6)), IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, chunk(b"sRGB", b"\x03"), IDAT, IEND)

    def test_ours(self) -> None:
        """Whatever our encoder writes passes."""
        for mode in ("L", "LA", "RGB", "RGBA"):
            for image in (photo(50, 40), drawing(50, 40), Image.new("RGB", (1, 1))):
                body = png.encode(image.convert(mode))
                self.assertEqual(result.check_png(body), image.size)

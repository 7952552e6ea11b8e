"""Tests of the first look at an upload."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.signature import MEDIA_TYPES, SIGNATURE_BYTES, sniff
from tests.corpus import seeds


def ftyp(*brands: bytes) -> bytes:
    """The first box of an ISO base media file."""
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0\0\0\x20meta"


class SniffTests(SynchronousTestCase):
    """What first bytes say."""

    def test_known(self) -> None:
        """Every kind that is crunched is known by its first bytes."""
        for name, data in seeds().items():
            self.assertEqual(sniff(data[:SIGNATURE_BYTES]), name.split()[0])

    def test_versions(self) -> None:
        """Both versions of GIF, and every layout of WebP."""
        self.assertEqual(sniff(b"GIF87a"), "gif")
        self.assertEqual(sniff(b"GIF89a"), "gif")
        self.assertIsNone(sniff(b"GIF90a"))
        for chunk in (b"VP8 ", b"VP8L", b"VP8X"):
            self.assertEqual(sniff(b"RIFF\0\0\0\0WEBP" + chunk), "webp")
        self.assertIsNone(sniff(b"RIFF\0\0\0\0WEBPVP9 "))
        self.assertIsNone(sniff(b"RIFF\0\0\0\0WAVEVP8 "))

    def test_brands(self) -> None:
        """The major brand decides, and where it says little, the first that says more."""
        for brands, kind in (
            ((b"avif",), "avif"),
            ((b"avis", b"msf1"), "avif"),
            ((b"mif1", b"miaf", b"avif"), "avif"),
            ((b"mif1", b"mif1", b"heic", b"avif"), None),
            ((b"heic", b"mif1"), None),
            ((b"mif1", b"miaf"), None),
            ((b"isom", b"avif"), None),
            ((b"qt  ",), None),
        ):
            self.assertEqual(sniff(ftyp(*brands)[:SIGNATURE_BYTES]), kind, brands)

    def test_brands_end(self) -> None:
        """What follows the first box is no brand of it."""
        data = ftyp(b"mif1", b"miaf") + b"avif"
        self.assertIsNone(sniff(data[:SIGNATURE_BYTES]))

    def test_heic(self) -> None:
        """HEIC is told only to whom wants it."""
        self.assertIsNone(sniff(ftyp(b"heic")))
        self.assertEqual(sniff(ftyp(b"heic"), heic=True), "heic")
        self.assertEqual(sniff(ftyp(b"mif1", b"hevc"), heic=True), "heic")

    def test_media_types(self) -> None:
        """Each kind has a media type."""
        self.assertEqual({name.split()[0] for name in seeds()}, set(MEDIA_TYPES))

    @given(st.binary(max_size=64))
    def test_anything(self, data: bytes) -> None:
        """Any bytes have an answer, and more of them do not change it."""
        kind = sniff(data)
        self.assertIn(kind, {None, *MEDIA_TYPES})
        if len(data) >= SIGNATURE_BYTES:
            self.assertEqual(sniff(data[:SIGNATURE_BYTES]), kind)

    def test_no_decoder(self) -> None:
        """Whoever imports this has neither Pillow nor NumPy."""
        code = "import sys, fxprofile.crunch.signature; print({'PIL', 'numpy'} & set(sys.modules))"
        said = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        self.assertEqual(said.stdout.strip(), b"set()")

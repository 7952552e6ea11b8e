"""The type and canvas that an upload claims in its first bytes."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.signature import (
    MEDIA_TYPES,
    SIGNATURE_BYTES,
    name_of_unsupported,
    sniff,
    webp_sides,
)
from tests.corpus import seeds
from tests.corpus.drawing import drawing, saved
from tests.corpus.webp import extended


def ftyp(*brands: bytes) -> bytes:
    """Return the first box of an ISO base media file, and the start of the next one."""
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0\0\0\x20meta"


class SniffTests(SynchronousTestCase):
    """The type that the first bytes claim."""

    def test_every_supported_type_is_recognised(self) -> None:
        """Each type that is crunched is recognised by its first bytes."""
        for name, data in seeds().items():
            self.assertEqual(sniff(data[:SIGNATURE_BYTES]), name.split()[0])

    def test_gif_and_webp_variants(self) -> None:
        """Both versions of GIF and each layout of WebP are recognised, and no others."""
        self.assertEqual(sniff(b"GIF87a"), "gif")
        self.assertEqual(sniff(b"GIF89a"), "gif")
        self.assertIsNone(sniff(b"GIF90a"))
        for chunk in (b"VP8 ", b"VP8L", b"VP8X"):
            self.assertEqual(sniff(b"RIFF\0\0\0\0WEBP" + chunk), "webp")
        self.assertIsNone(sniff(b"RIFF\0\0\0\0WEBPVP9 "))
        self.assertIsNone(sniff(b"RIFF\0\0\0\0WAVEVP8 "))

    def test_the_first_specific_brand_decides(self) -> None:
        """The first brand of a type that is known decides, however late in the list it is."""
        for brands, kind in (
            ((b"avif",), "avif"),
            ((b"avis", b"msf1"), "avif"),
            ((b"mif1", b"miaf", b"avif"), "avif"),
            ((b"mif1", b"mif1", b"heic", b"avif"), None),
            ((b"heic", b"mif1"), None),
            ((b"mif1", b"miaf"), None),
            ((b"isom", b"avif"), "avif"),
            ((b"mif1", *[b"abcd"] * 30, b"avif"), "avif"),
            ((b"qt  ",), None),
        ):
            self.assertEqual(sniff(ftyp(*brands)[:SIGNATURE_BYTES]), kind, brands)

    def test_brands_end_with_their_box(self) -> None:
        """Bytes after the first box are not read as brands."""
        data = ftyp(b"mif1", b"miaf") + b"avif"
        self.assertIsNone(sniff(data[:SIGNATURE_BYTES]))

    def test_heic_is_recognised_only_on_request(self) -> None:
        """HEIC is recognised only if the caller accepts it."""
        self.assertIsNone(sniff(ftyp(b"heic")))
        self.assertEqual(sniff(ftyp(b"heic"), heic=True), "heic")
        self.assertEqual(sniff(ftyp(b"mif1", b"hevc"), heic=True), "heic")

    def test_other_types_are_named(self) -> None:
        """Well-known types that are not accepted have a name, other bytes have none."""
        for data, name in (
            (ftyp(b"mif1", b"heic"), "HEIC"),
            (b"\xff\x0a\xfa\x7f", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"II*\0\x08\0\0\0", "TIFF"),
            (b"BM\x36\0\0\0\0\0", "BMP"),
            (b"%PDF-1.7", "PDF"),
            (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
            (b"hello", ""),
            (b"", ""),
        ):
            self.assertEqual(name_of_unsupported(data), name)

    def test_every_type_has_a_media_type(self) -> None:
        """Each type of image has a media type."""
        self.assertEqual({name.split()[0] for name in seeds()}, set(MEDIA_TYPES))

    @given(st.binary(max_size=64))
    def test_only_the_first_bytes_count(self, data: bytes) -> None:
        """Arbitrary bytes have a type or none, which later bytes do not change."""
        kind = sniff(data)
        self.assertIn(kind, {None, *MEDIA_TYPES})
        if len(data) >= SIGNATURE_BYTES:
            self.assertEqual(sniff(data[:SIGNATURE_BYTES]), kind)

    def test_no_decoder_is_imported(self) -> None:
        """Importing the module imports neither Pillow nor NumPy."""
        code = "import sys, fxprofile.crunch.signature; print({'PIL', 'numpy'} & set(sys.modules))"
        output = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        self.assertEqual(output.stdout.strip(), b"set()")


class WebpSidesTests(SynchronousTestCase):
    """The canvas that a WebP claims."""

    layouts = ({"quality": 50}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"})

    def test_every_layout_is_read(self) -> None:
        """The canvas is read from each layout of WebP."""
        for options in self.layouts:
            data = saved(drawing(321, 123), "WEBP", **options)
            self.assertEqual(webp_sides(data[12:16], data[20:30]), (321, 123))
        self.assertEqual(webp_sides(b"VP8X", extended(16_777_216, 1)[20:]), (16_777_216, 1))

    def test_a_truncated_file_has_no_canvas(self) -> None:
        """A file that ends before its canvas has none."""
        for options in self.layouts:
            data = saved(drawing(32, 32), "WEBP", **options)
            for length in range(25):
                self.assertIsNone(webp_sides(data[12:16], data[20:length]))

    def test_a_huge_canvas_is_read_from_30_bytes(self) -> None:
        """A canvas for which Pillow would reserve gigabytes is read from 30 bytes."""
        data = extended(16_000, 16_000)
        self.assertLessEqual(len(data), 30)
        self.assertEqual(webp_sides(data[12:16], data[20:]), (16_000, 16_000))

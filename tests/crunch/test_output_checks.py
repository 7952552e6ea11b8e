"""The checks of the pictures that a child has encoded."""

from __future__ import annotations

import io
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec import job, png
from fxprofile.crunch.result import CHECKS, InvalidResult, check_png
from fxprofile.model.keys import FORMATS
from tests.corpus.drawing import drawing, photo, saved
from tests.corpus.jpeg import srgb
from tests.corpus.png import chunk, header

SIGNATURE = png.SIGNATURE
IDAT = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
IEND = chunk(b"IEND")
IHDR = header(8, 8)


class CheckPngTests(SynchronousTestCase):
    """Which PNGs are published."""

    def refuse(self, *parts: bytes) -> None:
        with self.assertRaises(InvalidResult):
            check_png(b"".join(parts))

    def test_the_smallest_png_is_accepted(self) -> None:
        """A PNG of IHDR, IDAT and IEND is accepted."""
        self.assertEqual(check_png(b"".join((SIGNATURE, IHDR, IDAT, IEND))), (8, 8))

    def test_metadata_is_refused(self) -> None:
        """A PNG with a text, EXIF, profile or resolution chunk is refused."""
        text = chunk(b"tEXt", b"Comment\0GPS")
        self.refuse(SIGNATURE, IHDR, text, IDAT, IEND)
        for options in (
            {"exif": b"Exif\0\0II*\0"},
            {"icc_profile": b"icc"},
            {"dpi": (72, 72)},
        ):
            self.refuse(saved(drawing(8, 8), "PNG", **options))

    def test_chunks_must_be_unique_and_in_order(self) -> None:
        """A chunk that is repeated, misplaced or missing is refused."""
        srgb_chunk = chunk(b"sRGB", b"\0")
        self.refuse(SIGNATURE, IDAT, IHDR, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, srgb_chunk, IEND)
        self.refuse(SIGNATURE, IHDR, IHDR, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IEND)
        self.refuse(SIGNATURE, IDAT, IEND)

    def test_bytes_around_the_png_are_refused(self) -> None:
        """Bytes before the signature, in IEND or after it are refused."""
        self.refuse(b"GIF89a", SIGNATURE, IHDR, IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IEND, b"<script>")
        self.refuse(SIGNATURE, IHDR, IDAT, IEND, chunk(b"tEXt", b"<script>"))
        self.refuse(SIGNATURE, IHDR, IDAT, chunk(b"IEND", b"x"))
        self.refuse(SIGNATURE, IHDR, IDAT)
        self.refuse(b"")

    def test_wrong_checksums_are_refused(self) -> None:
        """A chunk with a wrong CRC is refused."""
        self.refuse(SIGNATURE, IHDR, chunk(b"IDAT", b"x", right=False), IEND)
        self.refuse(SIGNATURE, IHDR, IDAT, IEND[:-1] + b"\0")

    def test_impossible_lengths_are_refused(self) -> None:
        """A chunk longer than the file, and an IHDR of another length, are refused."""
        self.refuse(SIGNATURE, IHDR, b"\xff\xff\xff\xffIDAT", IEND)
        self.refuse(SIGNATURE, struct.pack(">I", 12) + b"IHDR", bytes(16), IDAT, IEND)
        self.refuse(SIGNATURE, chunk(b"IHDR", bytes(12)), IDAT, IEND)

    def test_other_pixel_formats_are_refused(self) -> None:
        """Colour types, bit depths and an interlace method that we do not write are refused."""
        for bit_depth, colour_type in ((16, 2), (1, 0), (2, 6), (8, 5), (8, 3)):
            self.refuse(SIGNATURE, header(8, 8, bit_depth, colour_type), IDAT, IEND)
        self.refuse(SIGNATURE, header(8, 8, interlace=1), IDAT, IEND)

    def test_palettes_are_checked(self) -> None:
        """A missing or needless palette, or one of an impossible length, is refused."""
        indexed = header(8, 8, 2, 3)
        palette = chunk(b"PLTE", bytes(12))
        good = b"".join((SIGNATURE, indexed, palette, chunk(b"tRNS", b"\0"), IDAT, IEND))
        self.assertEqual(check_png(good), (8, 8))
        self.refuse(SIGNATURE, IHDR, palette, IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE", bytes(11)), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE", bytes(15)), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, chunk(b"PLTE"), IDAT, IEND)
        self.refuse(SIGNATURE, indexed, palette, chunk(b"tRNS", bytes(5)), IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, chunk(b"tRNS", bytes(6)), IDAT, IEND)
        self.refuse(SIGNATURE, IHDR, chunk(b"sRGB", b"\x03"), IDAT, IEND)

    def test_our_encoder_is_accepted(self) -> None:
        """Every PNG of our encoder is accepted."""
        for mode in ("L", "LA", "RGB", "RGBA"):
            for image in (photo(50, 40), drawing(50, 40), Image.new("RGB", (1, 1))):
                body = png.encode(image.convert(mode))
                self.assertEqual(check_png(body), image.size)


FORMS = tuple(FORMATS.keys() - {"png"})
GOOD = {form: job.encode(photo(40, 30), form) for form in FORMS}


class CheckWebpAndAvifTests(SynchronousTestCase):
    """Which WebPs and AVIFs are published."""

    def refuse(self, body: bytes, form: str) -> None:
        with self.assertRaises(InvalidResult):
            CHECKS[form](body)

    def test_metadata_is_refused(self) -> None:
        """A picture with EXIF, a colour profile or XMP is refused."""
        exif = Image.Exif()
        exif[0x010E] = "221B Baker Street"
        for form in FORMS:
            for options in ({"exif": exif.tobytes()}, {"icc_profile": srgb()}, {"xmp": b"<x/>"}):
                self.refuse(saved(drawing(40, 30), form.upper(), **options), form)

    def test_animations_are_refused(self) -> None:
        """A file of more than one picture is refused."""
        for form in FORMS:
            file = io.BytesIO()
            frames = [photo(40, 30)]
            drawing(40, 30).save(file, form.upper(), save_all=True, append_images=frames)
            self.refuse(file.getvalue(), form)

    def test_trailing_or_missing_bytes_are_refused(self) -> None:
        """A picture with bytes after its end, or cut off anywhere, is refused."""
        for form, body in GOOD.items():
            self.refuse(body + b"<script>", form)
            self.refuse(body + struct.pack(">I4s", 8, b"free"), form)
            for length in range(0, len(body), 7):
                self.refuse(body[:length], form)

    def test_another_format_is_refused(self) -> None:
        """A picture of one format is not accepted as another."""
        self.refuse(GOOD["webp"], "avif")
        self.refuse(GOOD["avif"], "webp")
        self.refuse(saved(photo(40, 30), "PNG"), "webp")

    def test_repeated_or_long_avif_boxes_are_refused(self) -> None:
        """An AVIF box that is repeated, too long or not ours is refused."""
        body = GOOD["avif"]
        for name in (b"hdlr", b"pitm", b"iinf", b"iprp"):
            at = body.index(name) - 4
            length = int.from_bytes(body[at : at + 4], "big")
            self.refuse(grown(body, b"meta", body[at : at + length]), "avif")
        for name in (b"ftyp", b"hdlr", b"infe", b"pixi"):
            within = {b"ftyp": (), b"hdlr": (b"meta",), b"infe": (b"meta", b"iinf")}
            parents = within.get(name, (b"meta", b"iprp", b"ipco"))
            self.refuse(grown(body, name, b"Baker Street" * 10, *parents), "avif")
        self.refuse(body.replace(b"pict", b"meta"), "avif")
        self.refuse(grown(body, b"iprp", struct.pack(">I4s", 8, b"free"), b"meta"), "avif")

    def test_reserved_webp_bytes_are_refused(self) -> None:
        """A WebP with a value in its reserved bytes is refused."""
        image = photo(40, 30)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        body = bytearray(job.encode(image, "webp"))
        self.assertEqual(body[12:16], b"VP8X")
        body[22] = 1
        self.refuse(bytes(body), "webp")

    @given(st.sampled_from(FORMS), st.data())
    def test_a_changed_byte_raises_no_other_error(self, form: str, data: st.DataObject) -> None:
        """A changed byte raises InvalidResult, unless it belongs to the compressed pixels."""
        body = bytearray(GOOD[form])
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            width, height = CHECKS[form](bytes(body))
        except InvalidResult:
            return
        self.assertTrue(width >= 0 and height >= 0)


def grown(body: bytes, name: bytes, more: bytes, *parents: bytes) -> bytes:
    """Return an AVIF in which the box of this name, and its parents, end in more bytes."""
    whole = bytearray(body)
    inner = body.index(name) - 4
    end = inner + int.from_bytes(body[inner : inner + 4], "big")
    whole[end:end] = more
    for box in (*parents, name):
        at = body.index(box) - 4
        length = int.from_bytes(body[at : at + 4], "big") + len(more)
        whole[at : at + 4] = length.to_bytes(4, "big")
    return bytes(whole)

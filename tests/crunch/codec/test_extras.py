"""Tests of the pictures in other formats."""

from __future__ import annotations

import io
import struct
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.crunch import result
from fxprofile.crunch.codec import extras
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.pool import CrunchPool
from fxprofile.model.keys import FORMATS
from tests.corpus.drawing import drawing, photo, saved
from tests.corpus.jpeg import srgb
from tests.crunch.quality import natural, psnr

FORMS = tuple(FORMATS.keys() - {"png"})
GOOD = {form: extras.encode(photo(40, 30), form) for form in FORMS}


class EncodeTests(SynchronousTestCase):
    """What is written."""

    def test_modes(self) -> None:
        """A picture of any kind and size comes back much as it was, alpha included."""
        for form in FORMS:
            for mode in ("L", "LA", "RGB", "RGBA"):
                for sides in ((1, 1), (33, 20), (200, 125)):
                    image = natural(200, 125, 2).resize(sides).convert(mode)
                    if mode.endswith("A"):
                        image.putalpha(Image.linear_gradient("L").resize(sides))
                    body = extras.encode(image, form)
                    self.assertEqual(extras.check(body, form), sides)
                    back = Image.open(io.BytesIO(body), formats=(form.upper(),))
                    back.load()
                    self.assertEqual(back.has_transparency_data, mode.endswith("A"))
                    if mode == "RGB":
                        self.assertGreater(psnr(back, image), 30)

    def test_source(self) -> None:
        """Nothing that the source said of itself is written."""
        told = Image.Exif()
        told[0x010E] = "221B Baker Street"
        source = {"exif": told.tobytes(), "icc_profile": srgb(), "xmp": b"<x/>", "loop": 3}
        for form in FORMS:
            image = photo(40, 30)
            image.info.update(source)
            self.assertEqual(extras.encode(image, form), GOOD[form])

    def test_smaller(self) -> None:
        """A photo has less than a third of the bytes of its PNG."""
        image = natural(600, 400, 4)
        for form in FORMS:
            body = extras.encode(image, form)
            self.assertLess(len(body), len(saved(image, "PNG")) / 3)


class CheckTests(SynchronousTestCase):
    """What is taken for a picture of ours."""

    def refuse(self, body: bytes, form: str) -> None:
        with self.assertRaises((extras.BadPicture, IndexError)):
            extras.check(body, form)

    def test_metadata(self) -> None:
        """Nothing that could tell something of anybody."""
        told = Image.Exif()
        told[0x010E] = "221B Baker Street"
        for form in FORMS:
            for options in ({"exif": told.tobytes()}, {"icc_profile": srgb()}, {"xmp": b"<x/>"}):
                self.refuse(saved(drawing(40, 30), form.upper(), **options), form)

    def test_animation(self) -> None:
        """One picture and no more."""
        for form in FORMS:
            file = io.BytesIO()
            frames = [photo(40, 30)]
            drawing(40, 30).save(file, form.upper(), save_all=True, append_images=frames)
            self.refuse(file.getvalue(), form)

    def test_ends(self) -> None:
        """Nothing behind the end, and nothing missing."""
        for form, body in GOOD.items():
            self.refuse(body + b"<script>", form)
            self.refuse(body + struct.pack(">I4s", 8, b"free"), form)
            for length in range(0, len(body), 7):
                self.refuse(body[:length], form)

    def test_other(self) -> None:
        """One format is not another."""
        self.refuse(GOOD["webp"], "avif")
        self.refuse(GOOD["avif"], "webp")
        self.refuse(saved(photo(40, 30), "PNG"), "webp")

    def test_twice(self) -> None:
        """No part of an AVIF twice, and none longer than it need be."""
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

    def test_unused(self) -> None:
        """Nothing in the bytes of a WebP that are not used."""
        image = photo(40, 30)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        body = bytearray(extras.encode(image, "webp"))
        self.assertEqual(body[12:16], b"VP8X")
        body[22] = 1
        self.refuse(bytes(body), "webp")

    @given(st.sampled_from(FORMS), st.data())
    def test_flipped(self, form: str, data: st.DataObject) -> None:
        """A change of any byte is seen, or is one of the picture's own."""
        body = bytearray(GOOD[form])
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            width, height = extras.check(bytes(body), form)
        except (extras.BadPicture, IndexError):
            return
        self.assertTrue(width >= 0 and height >= 0)


def grown(body: bytes, name: bytes, more: bytes, *parents: bytes) -> bytes:
    """An AVIF whose box of this name, and those around it, end in more bytes."""
    whole = bytearray(body)
    inner = body.index(name) - 4
    end = inner + int.from_bytes(body[inner : inner + 4], "big")
    whole[end:end] = more
    for box in (*parents, name):
        at = body.index(box) - 4
        length = int.from_bytes(body[at : at + 4], "big") + len(more)
        whole[at : at + 4] = length.to_bytes(4, "big")
    return bytes(whole)


class FormatsTests(TestCase):
    """A pool that is asked for more formats."""

    timeout = 120

    async def test_formats(self) -> None:
        """Each picture comes in each format too, made under the same lock."""
        limits = Limits(timeout=60, formats=FORMS)
        pool = CrunchPool(reactor, processes=1, limits=limits, mode="best-effort")
        pool.startService()
        self.addCleanup(pool.stopService)
        with tempfile.TemporaryFile() as original:
            original.write(saved(photo(800, 500), "JPEG"))
            original.flush()
            outcome = (await pool.examine(original=original)).outcome
        self.assertIsNone(outcome.reason, outcome.detail)
        self.assertEqual(set(outcome.extras), set(FORMS))
        for form, pictures in outcome.extras.items():
            for name, (variant, body) in pictures.items():
                image = Image.open(io.BytesIO(body), formats=(form.upper(),))
                self.assertEqual(image.size, (variant.width, variant.height))
                self.assertEqual(image.size, Image.open(io.BytesIO(outcome.pictures[name][1])).size)

    def test_mixed(self) -> None:
        """A picture in another format with other sides than its PNG is none."""
        outcome = result.decode(result.encode(made(60, 60)))
        self.assertEqual(set(outcome.extras), {"webp"})
        for bad in (made(60, 59), made(60, 60, "avif"), made(60, 60, "gif")):
            with self.assertRaises(result.BadResult):
                result.decode(result.encode(bad))


def made(width: int, height: int, form: str = "webp") -> result.Outcome:
    """An outcome with WebPs of these sides, called what they may not be."""
    from fxprofile.crunch.codec.job import _encoded

    images = {name: photo(60, 60) for name in ("large", "default", "small")}
    others = {name: photo(width, height) for name in images}
    return result.Outcome(
        kind="png",
        sides=(60, 60),
        pictures=_encoded(images, "png"),
        extras={form: _encoded(others, "webp")},
    )

"""Encoding the pictures of a job in each format."""

from __future__ import annotations

import io

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.job import crunch, encode
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.result import CHECKS
from fxprofile.model.keys import FORMATS
from tests.corpus.drawing import photo, saved
from tests.corpus.jpeg import srgb
from tests.crunch.quality import natural, psnr


def digest_of(data: bytes) -> str:
    """Return the digest of the pixels of a file."""
    outcome = crunch(data, Limits())
    assert outcome.reason is None
    return outcome.pixels


class DigestTests(SynchronousTestCase):
    """The digest of a picture's pixels."""

    def test_files_with_the_same_pixels(self) -> None:
        """Files that decode to the same pixels have the same digest, whatever their bytes are."""
        image = natural(900, 700, 5)
        exif = Image.Exif()
        exif[0x010E] = "221B Baker Street"
        opaque = image.convert("RGBA")
        files = [
            saved(image, "PNG"),
            saved(image, "PNG", compress_level=1, exif=exif.tobytes()),
            saved(opaque, "PNG"),
            saved(image, "WEBP", lossless=True),
        ]
        self.assertEqual(len(set(files)), 4)
        self.assertEqual(len({digest_of(data) for data in files}), 1)

    def test_other_pixels(self) -> None:
        """Another pixel, another side and another alpha make another digest."""
        image = photo(40, 30)
        changed, clear = image.copy(), image.convert("RGBA")
        changed.putpixel((3, 4), (1, 2, 3))
        clear.putpixel((3, 4), (*image.getpixel((3, 4)), 254))
        files = [image, changed, clear, image.resize((30, 40)), photo(40, 31)]
        self.assertEqual(len({digest_of(saved(each, "PNG")) for each in files}), len(files))

    def test_the_published_picture_has_the_digest_of_its_source(self) -> None:
        """The largest published PNG of a photo has the digest of the photo itself."""
        for data in (saved(natural(1500, 900, 6), "JPEG"), saved(photo(50, 70), "GIF")):
            outcome = crunch(data, Limits())
            self.assertEqual(digest_of(outcome.pictures["png"]["large"][1]), outcome.pixels)


FORMS = tuple(FORMATS.keys() - {"png"})


class EncodeTests(SynchronousTestCase):
    """Pictures in WebP and AVIF."""

    def test_every_mode_and_size_is_encoded(self) -> None:
        """A picture of any mode and size keeps its sides, its alpha and about its pixels."""
        for form in FORMS:
            for mode in ("L", "LA", "RGB", "RGBA"):
                for sides in ((1, 1), (33, 20), (200, 125)):
                    image = natural(200, 125, 2).resize(sides).convert(mode)
                    if mode.endswith("A"):
                        image.putalpha(Image.linear_gradient("L").resize(sides))
                    body = encode(image, form)
                    self.assertEqual(CHECKS[form](body), sides)
                    back = Image.open(io.BytesIO(body), formats=(form.upper(),))
                    back.load()
                    self.assertEqual(back.has_transparency_data, mode.endswith("A"))
                    if mode == "RGB":
                        self.assertGreater(psnr(back, image), 30)

    def test_metadata_of_the_source_is_not_encoded(self) -> None:
        """Metadata of the source does not change the encoded picture."""
        exif = Image.Exif()
        exif[0x010E] = "221B Baker Street"
        source = {"exif": exif.tobytes(), "icc_profile": srgb(), "xmp": b"<x/>", "loop": 3}
        for form in FORMS:
            image = photo(40, 30)
            plain = encode(image, form)
            image.info.update(source)
            self.assertEqual(encode(image, form), plain)

    def test_photos_are_smaller_than_their_png(self) -> None:
        """A photo has less than a third of the bytes of its PNG."""
        image = natural(600, 400, 4)
        for form in FORMS:
            self.assertLess(len(encode(image, form)), len(saved(image, "PNG")) / 3)

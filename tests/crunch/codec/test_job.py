"""Encoding the pictures of a job in each format."""

from __future__ import annotations

import io

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.job import encode
from fxprofile.crunch.result import CHECKS
from fxprofile.model.keys import FORMATS
from tests.corpus.drawing import photo, saved
from tests.corpus.jpeg import srgb
from tests.crunch.quality import natural, psnr

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

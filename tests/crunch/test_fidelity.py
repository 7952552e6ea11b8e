"""Tests of how near the pictures are to the image."""

from __future__ import annotations

import io
import statistics

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec import decoders, pixels
from fxprofile.crunch.limits import Limits
from tests.corpus.drawing import grain, saved
from tests.crunch.quality import natural, psnr, reference, ssim

LIMITS = Limits()
decoders.prepare(LIMITS)


class QualityTests(SynchronousTestCase):
    """The measure itself."""

    def test_equal(self) -> None:
        """A picture is as near to itself as can be."""
        image = natural(300, 200, 1)
        self.assertEqual(psnr(image, image), 99)
        self.assertAlmostEqual(ssim(image, image), 1)

    def test_different(self) -> None:
        """A picture that was blurred, moved or made darker is not near."""
        image = natural(300, 200, 1)
        for other in (
            image.resize((75, 50)).resize((300, 200)),
            image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)),
            image.point(lambda v: v * 0.95),
        ):
            self.assertLess(psnr(image, other), 40)


class FidelityTests(SynchronousTestCase):
    """Decoding once, at a fraction of the size, and each size from the one before."""

    def near(self, data: bytes, where: str) -> list[float]:
        """See that no size is far from a full decode and one resize; how near, in decibels."""
        _, pictures = pixels.reduced(data, LIMITS)
        decibels = []
        for name, wanted in reference(data).items():
            found = pictures[name]
            self.assertEqual(found.size, wanted.size)
            decibels.append(psnr(found, wanted))
            self.assertGreaterEqual(decibels[-1], 47, f"{where}, {name}")
            self.assertGreaterEqual(ssim(found, wanted), 0.994, f"{where}, {name}")
        return decibels

    def test_photos(self) -> None:
        """No size of a photo is far from a full decode and one resize, whatever its sides."""
        decibels = []
        for seed, (width, height) in enumerate(
            ((640, 480), (801, 533), (1000, 1000), (1600, 1067), (1365, 2048), (4000, 3000))
        ):
            image = natural(width, height, seed)
            for form, options in (
                ("JPEG", {"quality": 90}),
                ("JPEG", {"quality": 85, "progressive": True}),
                ("WEBP", {"quality": 85, "method": 0}),
                ("PNG", {"compress_level": 1}),
            ):
                if width * height > 4_000_000 and form != "JPEG":
                    continue
                data = saved(image, form, **options)
                decibels += self.near(data, f"{form} {options} of {image.size}")
        self.assertGreaterEqual(statistics.mean(decibels), 53)

    def test_sharp(self) -> None:
        """Nor of one that is sharp to the last pixel, of which less may be left to the filter."""
        for width, height in ((1700, 1200), (3400, 2500)):
            noise = Image.merge("RGB", [grain(width, height, 60)] * 3)
            image = Image.blend(natural(width, height, 5), noise, 0.25)
            for form, options in (("JPEG", {"quality": 90}), ("PNG", {"compress_level": 1})):
                self.near(saved(image, form, **options), f"{form} of {image.size}")

    def test_small(self) -> None:
        """An image that fits is not touched."""
        image = natural(90, 60, 7)
        _, pictures = pixels.reduced(saved(image, "PNG"), LIMITS)
        for picture in pictures.values():
            self.assertEqual(picture.tobytes(), image.tobytes())

    def test_alpha(self) -> None:
        """What is transparent does not bleed into what is not, however large the image."""
        for width, height in ((1000, 700), (5000, 3500)):
            image = Image.new("RGBA", (width, height), (255, 0, 0, 0))
            image.paste((0, 0, 255, 255), (0, 0, width // 2, height))
            _, pictures = pixels.reduced(saved(image, "PNG", compress_level=1), LIMITS)
            for name, picture in pictures.items():
                for _, pixel in picture.convert("RGBA").getcolors(1 << 20) or []:
                    self.assertTrue(pixel[3] == 0 or pixel[0] <= 2, f"{name}: {pixel}")

    def test_averaged_alpha(self) -> None:
        """Averaging in strips gives what one resize of the whole gives."""
        image = natural(4100, 3077, 3).convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        _, pictures = pixels.reduced(saved(image, "PNG", compress_level=1), LIMITS)
        found = pictures["large"]
        wanted = image.resize(found.size, Image.Resampling.LANCZOS)
        for channel in "RGB":
            # Where next to nothing is seen, so is the difference.
            mask = found.getchannel("A").point(lambda v: 255 * (v > 40))
            pair = [Image.composite(i.getchannel(channel), mask, mask) for i in (found, wanted)]
            self.assertGreater(psnr(*pair), 47)
        self.assertGreater(psnr(found.getchannel("A"), wanted.getchannel("A")), 55)

    def test_odd_sides(self) -> None:
        """Every shape keeps its shape, within one pixel, and never grows."""
        for width, height in ((601, 599), (1201, 7), (3, 1999), (700, 1), (199, 201), (5, 5)):
            image = grain(width, height, 50).convert("RGB")
            _, pictures = pixels.reduced(saved(image, "PNG"), LIMITS)
            for name, box in (("large", 600), ("default", 200), ("small", 100)):
                scale = min(1, box / max(width, height))
                for side, original in zip(pictures[name].size, (width, height), strict=True):
                    self.assertLessEqual(abs(side - max(1, original * scale)), 1)

    def test_modes(self) -> None:
        """Greys stored as colours become greys, and opaque alpha goes."""
        grey = natural(300, 200, 9).convert("L")
        for image, mode in (
            (grey.convert("RGB"), "L"),
            (grey.convert("RGBA"), "L"),
            (natural(300, 200, 9).convert("RGBA"), "RGB"),
        ):
            _, pictures = pixels.reduced(saved(image, "PNG"), LIMITS)
            self.assertEqual({picture.mode for picture in pictures.values()}, {mode})

    def test_shared(self) -> None:
        """The sizes that an image already fits are one and the same picture."""
        _, pictures = pixels.reduced(saved(natural(90, 60, 7), "PNG"), LIMITS)
        self.assertEqual(len({id(picture) for picture in pictures.values()}), 1)

    def test_cmyk(self) -> None:
        """Red printed is red on the screen."""
        file = io.BytesIO()
        Image.new("CMYK", (300, 200), (0, 255, 255, 0)).save(file, "JPEG", quality=95)
        _, pictures = pixels.reduced(file.getvalue(), LIMITS)
        red, green, blue = pictures["default"].getpixel((9, 9))
        self.assertGreater(red, 240)
        self.assertLess(max(green, blue), 20)

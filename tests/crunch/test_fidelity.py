"""How close the pictures are to the image."""

from __future__ import annotations

import io
import statistics
from dataclasses import replace

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec import decoders, pixels
from fxprofile.crunch.limits import Fit, Limits
from tests.corpus.drawing import exif, grain, saved
from tests.crunch.quality import natural, psnr, reference, squared, ssim

LIMITS = Limits()
decoders.prepare(LIMITS)


class QualityTests(SynchronousTestCase):
    """The measures of quality."""

    def test_equal_pictures_have_the_best_score(self) -> None:
        """A picture compared with itself has the best score."""
        image = natural(300, 200, 1)
        self.assertEqual(psnr(image, image), 99)
        self.assertAlmostEqual(ssim(image, image), 1)

    def test_changed_pictures_have_a_low_score(self) -> None:
        """A picture that was blurred, moved or darkened has a low score."""
        image = natural(300, 200, 1)
        for other in (
            image.resize((75, 50)).resize((300, 200)),
            image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)),
            image.point(lambda v: v * 0.95),
        ):
            self.assertLess(psnr(image, other), 40)


class FidelityTests(SynchronousTestCase):
    """Decoding once at a fraction of the size, and making each size from the one before."""

    fit: Fit = "inside"

    def setUp(self) -> None:
        self.limits = replace(LIMITS, fit=self.fit)

    def near(self, data: bytes, where: str) -> list[float]:
        """Check that each size is close to one resize; return the PSNR of each."""
        _, pictures = pixels.reduced(data, self.limits)
        decibels = []
        for name, wanted in reference(data, self.fit).items():
            found = pictures[name]
            self.assertEqual(found.size, wanted.size)
            decibels.append(psnr(found, wanted))
            self.assertGreaterEqual(decibels[-1], 47, f"{where}, {name}")
            self.assertGreaterEqual(ssim(found, wanted), 0.994, f"{where}, {name}")
        return decibels

    def test_photos_keep_their_quality(self) -> None:
        """Every size of a photo is close to a full decode and one resize."""
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

    def test_sharp_photos_keep_their_quality(self) -> None:
        """Every size of a photo that is sharp at the scale of a pixel is close to one resize."""
        for width, height in ((1700, 1200), (3400, 2500)):
            noise = Image.merge("RGB", [grain(width, height, 60)] * 3)
            image = Image.blend(natural(width, height, 5), noise, 0.25)
            for form, options in (("JPEG", {"quality": 90}), ("PNG", {"compress_level": 1})):
                self.near(saved(image, form, **options), f"{form} of {image.size}")

    def test_small_images_are_unchanged(self) -> None:
        """The pixels of an image that fits every box are unchanged."""
        image = natural(90, 60, 7)
        _, pictures = pixels.reduced(saved(image, "PNG"), self.limits)
        wanted = squared(image) if self.fit == "cover" else image
        for picture in pictures.values():
            self.assertEqual(picture.tobytes(), wanted.tobytes())

    def test_pixels_of_a_webp_are_unchanged(self) -> None:
        """The pixels of a small lossless WebP are unchanged, with and without alpha."""
        image = natural(90, 90, 7)
        clear = image.copy()
        clear.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda v: max(v, 1)))
        for wanted in (image, clear):
            data = saved(wanted, "WEBP", lossless=True, exact=True)
            _, pictures = pixels.reduced(data, self.limits)
            for picture in pictures.values():
                self.assertEqual(picture.mode, wanted.mode)
                self.assertEqual(picture.tobytes(), wanted.tobytes())

    def test_opaque_alpha_changes_no_pixel(self) -> None:
        """Opaque alpha changes no pixel of the pictures of an image, be it small or large."""
        for width, height in ((90, 60), (900, 700), (2600, 1900)):
            image = natural(width, height, 7)
            (_, found), (_, wanted) = (
                pixels.reduced(saved(i, "PNG", compress_level=1), self.limits)
                for i in (image.convert("RGBA"), image)
            )
            for name, picture in found.items():
                self.assertEqual(picture.mode, "RGB")
                self.assertEqual(picture.tobytes(), wanted[name].tobytes())

    def test_transparent_pixels_do_not_bleed(self) -> None:
        """The colour of transparent pixels does not bleed into others, in images of any size."""
        for width, height in ((1000, 700), (5000, 3500)):
            image = Image.new("RGBA", (width, height), (255, 0, 0, 0))
            image.paste((0, 0, 255, 255), (0, 0, width // 2, height))
            _, pictures = pixels.reduced(saved(image, "PNG", compress_level=1), self.limits)
            for name, picture in pictures.items():
                for _, pixel in picture.convert("RGBA").getcolors(1 << 20) or []:
                    self.assertTrue(pixel[3] == 0 or pixel[0] <= 2, f"{name}: {pixel}")

    def test_averaging_in_strips_equals_one_resize(self) -> None:
        """Averaging a picture with alpha in strips is close to one resize of the whole."""
        image = natural(4100, 3077, 3).convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        _, pictures = pixels.reduced(saved(image, "PNG", compress_level=1), self.limits)
        found = pictures["large"]
        image = squared(image) if self.fit == "cover" else image
        wanted = image.resize(found.size, Image.Resampling.LANCZOS)
        for channel in "RGB":
            # Differences in almost transparent pixels are invisible.
            mask = found.getchannel("A").point(lambda v: 255 * (v > 40))
            pair = [Image.composite(i.getchannel(channel), mask, mask) for i in (found, wanted)]
            self.assertGreater(psnr(*pair), 47)
        self.assertGreater(psnr(found.getchannel("A"), wanted.getchannel("A")), 55)

    def test_every_shape_fits_its_boxes(self) -> None:
        """A picture keeps its shape within one pixel, or is a square, and is never enlarged."""
        for width, height in ((601, 599), (1201, 7), (3, 1999), (700, 1), (199, 201), (5, 5)):
            image = grain(width, height, 50).convert("RGB")
            _, pictures = pixels.reduced(saved(image, "PNG"), self.limits)
            for name, box in (("large", 600), ("default", 200), ("small", 100)):
                if self.fit == "cover":
                    self.assertEqual(pictures[name].size, (min(width, height, box),) * 2)
                    continue
                scale = min(1, box / max(width, height))
                for side, original in zip(pictures[name].size, (width, height), strict=True):
                    self.assertLessEqual(abs(side - max(1, original * scale)), 1)

    def test_needless_channels_are_dropped(self) -> None:
        """Greys stored as colours become greys, and opaque alpha is dropped."""
        grey = natural(300, 200, 9).convert("L")
        for image, mode in (
            (grey.convert("RGB"), "L"),
            (grey.convert("RGBA"), "L"),
            (natural(300, 200, 9).convert("RGBA"), "RGB"),
        ):
            _, pictures = pixels.reduced(saved(image, "PNG"), LIMITS)
            self.assertEqual({picture.mode for picture in pictures.values()}, {mode})

    def test_sizes_that_fit_share_one_picture(self) -> None:
        """All sizes that an image already fits are the same picture object."""
        _, pictures = pixels.reduced(saved(natural(90, 60, 7), "PNG"), LIMITS)
        self.assertEqual(len({id(picture) for picture in pictures.values()}), 1)

    def test_cmyk_is_converted(self) -> None:
        """Red in CMYK is red in sRGB."""
        file = io.BytesIO()
        Image.new("CMYK", (300, 200), (0, 255, 255, 0)).save(file, "JPEG", quality=95)
        _, pictures = pixels.reduced(file.getvalue(), LIMITS)
        red, green, blue = pictures["default"].getpixel((9, 9))
        self.assertGreater(red, 240)
        self.assertLess(max(green, blue), 20)


class CoverFidelityTests(FidelityTests):
    """The same with ``cover``: pictures of the square in the centre."""

    fit = "cover"

    def test_the_centre_is_exact(self) -> None:
        """The square is the centre of the image, wherever a scaled JPEG puts its pixels."""
        for width, height in ((2417, 1201), (1203, 2419), (5001, 3307)):
            for orientation in (1, 6, 8):
                image = natural(width, height, 11)
                data = saved(image, "JPEG", quality=92, exif=exif(orientation))
                _, pictures = pixels.reduced(data, self.limits)
                wanted = reference(data, "cover")["large"]
                if orientation != 1:
                    turn = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
                    wanted = wanted.transpose(turn[orientation])
                self.assertGreater(psnr(pictures["large"], wanted), 47)

"""The PNG encoder."""

from __future__ import annotations

import io
import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, PngImagePlugin
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch import result
from fxprofile.crunch.codec import deflate, png
from tests.corpus.drawing import drawing, grain, photo

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
MODES = st.sampled_from(sorted(CHANNELS))
SIDES = st.integers(1, 40)


def image_of(pixels: png.Pixels, mode: str) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)


def chunks(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


class EncodeTests(SynchronousTestCase):
    """Encoding is lossless and small."""

    def same(self, image: Image.Image, trials: png.Trials | None = None) -> bytes:
        data = png.encode(image, trials)
        self.assertEqual(result.check_png(data), image.size)
        # Pillow alone: the cruncher's decoder does not verify every checksum.
        back = PngImagePlugin.PngImageFile(io.BytesIO(data))
        back.load()
        self.assertEqual(back.convert(image.mode).tobytes(), image.tobytes())
        return data

    @given(st.data(), MODES, SIDES, SIDES)
    def test_arbitrary_pixels_are_lossless(
        self, data: st.DataObject, mode: str, width: int, height: int
    ) -> None:
        """Arbitrary pixels of every mode are encoded losslessly."""
        shape = (height, width, CHANNELS[mode])
        self.same(image_of(data.draw(arrays.arrays(np.uint8, shape)), mode))

    @given(MODES, SIDES, SIDES, st.integers(1, 300), st.integers(0, 1 << 32))
    def test_any_number_of_colours_is_lossless(
        self, mode: str, width: int, height: int, count: int, seed: int
    ) -> None:
        """Pictures with fewer and more colours than a palette holds are encoded losslessly."""
        numbers = np.random.default_rng(seed)
        colours = numbers.integers(0, 256, (count, CHANNELS[mode]), dtype=np.uint8)
        self.same(image_of(colours[numbers.integers(0, count, (height, width))], mode))

    @given(MODES, st.integers(0, 1 << 32), st.integers(0, 7), st.integers(0, 7))
    @settings(max_examples=50)
    def test_ramps_are_lossless(self, mode: str, seed: int, across: int, down: int) -> None:
        """Ramps, each of which suits another filter type, are encoded losslessly."""
        numbers = np.random.default_rng(seed)
        y, x = np.mgrid[0:50, 0:70]
        planes = [
            (x * across + y * down + numbers.integers(0, 256) + numbers.integers(0, 4, x.shape))
            for _ in range(CHANNELS[mode])
        ]
        self.same(image_of(np.stack(planes, axis=-1).astype(np.uint8), mode))

    def test_large_pictures_are_lossless(self) -> None:
        """Pictures of the largest size are encoded losslessly in every mode."""
        for image in (photo(600, 400), drawing(600, 400), grain(600, 600, 90)):
            for mode in CHANNELS:
                self.same(image.convert("RGB").convert(mode))

    def test_noise_fits_the_size_caps(self) -> None:
        """The largest possible picture of each size is below its size cap."""
        noise = np.random.default_rng(1).integers(0, 256, (600, 600, 4), dtype=np.uint8)
        self.assertLess(len(self.same(Image.fromarray(noise, "RGBA"))), 2 << 20)
        self.assertLess(len(self.same(Image.fromarray(noise[:200, :200], "RGBA"))), 256 << 10)
        self.assertLess(len(self.same(Image.fromarray(noise[:100, :100], "RGBA"))), 64 << 10)

    def test_flat_art_becomes_a_small_palette(self) -> None:
        """A drawing of four colours becomes a palette of two bits."""
        data = self.same(drawing(600, 400))
        self.assertEqual(chunks(data), [b"IHDR", b"sRGB", b"PLTE", b"IDAT", b"IEND"])
        self.assertEqual(data[24:26], b"\x02\x03")
        self.assertLess(len(data), 1000)

    def test_transparent_colours_come_first(self) -> None:
        """In a palette the transparent colours come first, and only they are in tRNS."""
        image = drawing(60, 40, "RGBA")
        image.putpixel((0, 0), (1, 2, 3, 0))
        data = self.same(image)
        at = data.index(b"tRNS")
        self.assertEqual(data[at - 4 : at], b"\0\0\0\x01")

    def test_photos_have_no_palette(self) -> None:
        """A photo is encoded without a palette."""
        self.assertEqual(chunks(self.same(photo())), [b"IHDR", b"sRGB", b"IDAT", b"IEND"])

    def test_the_best_filter_type_is_used(self) -> None:
        """Each row gets the filter type that leaves the smallest differences."""
        noise = np.random.default_rng(2).integers(0, 256, (1, 120), dtype=np.uint8)
        steps = np.arange(120, dtype=np.uint8)[:, None]
        for rows, wanted in (
            (np.broadcast_to(noise, (40, 120)), 2),
            (np.broadcast_to(noise.T, (120, 120)) + steps.T, 1),
            (noise.T + noise, 4),
        ):
            framed = png._framed(rows, 1)
            sample = png._filtered_sample(framed, 1)
            used = png._filtered(framed, 1, sample)[1:, 0]
            self.assertEqual(np.bincount(used).argmax(), wanted)

    def test_files_are_not_larger_than_those_of_pillow(self) -> None:
        """No kind of picture is much larger than with Pillow's encoder."""
        text = Image.new("RGB", (600, 400), "white")
        draw = ImageDraw.Draw(text)
        for line in range(0, 400, 14):
            draw.text(
                (5, line), "All work and no play makes Jack a dull boy. " * 3, fill=(9, 9, 60)
            )
        noise = grain(600, 400, 60).convert("RGB")
        ramps = [Image.linear_gradient("L").resize((600, 400)).rotate(n) for n in (0, 90, 180)]
        tile = photo(60, 50)
        tiles = Image.new("RGB", (600, 400))
        for place in range(80):
            tiles.paste(tile, (place % 10 * 60, place // 10 * 50))
        half = photo(600, 400)
        half.paste(text.rotate(2), (0, 200))
        for image in (
            photo(600, 400),
            text.rotate(3),
            noise,
            Image.merge("RGB", ramps),
            tiles,
            half,
        ):
            file = io.BytesIO()
            image.save(file, "PNG")
            for library in (zlib, deflate.library):
                self.patch(deflate, "library", library)
                most = 1.1 * len(file.getvalue()) + 1000
                self.assertLess(len(png.encode(image)), most)

    def test_smaller_sizes_of_flat_art_show_how_to_encode_larger_ones(self) -> None:
        """The trials with a smaller size of flat art decide whether a larger one is filtered."""
        art = Image.new("RGB", (1200, 800), "white")
        draw = ImageDraw.Draw(art)
        for line in range(0, 800, 80):
            draw.text((9, line), "Jack is a dull boy. " * 5, fill=(line // 4, 9, 60), font_size=20)
        small, large = (
            art.resize(sides, Image.Resampling.LANCZOS) for sides in ((192, 128), (600, 400))
        )
        trials = png.Trials()
        self.same(small, trials)
        self.assertLess(trials.unfiltered, 1)
        unfiltered = self.same(large, png.Trials(unfiltered=0.5))
        self.assertEqual(unfiltered, png.encode(large))
        self.assertLess(len(unfiltered), len(self.same(large, png.Trials(unfiltered=2))))

    def test_zlib_ng_writes_the_bytes_of_zlib_without_a_search(self) -> None:
        """Without a search for matches, zlib-ng writes the same bytes as zlib."""
        rows = np.asarray(photo(200, 120)).reshape(120, -1)
        for setting in (png._HUFFMAN, png._RLE):
            found = []
            for library in (deflate.library, zlib):
                self.patch(deflate, "library", library)
                found.append(png._deflate(rows, setting))
            self.assertEqual(*found)

    def test_paeth_predictor_equals_the_standard(self) -> None:
        """The predictor in eight bits equals that of the standard, however its inputs relate."""
        values = np.array([0, 1, 2, 63, 64, 127, 128, 129, 200, 254, 255], np.uint8)
        left, above, diagonal = (grid.ravel() for grid in np.meshgrid(values, values, values))
        predicted = png._paeth(left, above, diagonal, np.empty((4, len(left)), np.uint8))
        for a, b, c, found in zip(left, above, diagonal, predicted, strict=True):
            p = int(a) + int(b) - int(c)
            distances = [abs(p - int(v)) for v in (a, b, c)]
            wanted = (a, b, c)[distances.index(min(distances))]
            # Of two that are equally near, only the first undoes the filter.
            self.assertEqual(found, wanted, (a, b, c))

    def test_idat_is_one_complete_stream(self) -> None:
        """IDAT is one complete zlib stream of all rows."""
        data = png.encode(photo(60, 40))
        at = data.index(b"IDAT")
        length = int.from_bytes(data[at - 4 : at], "big")
        self.assertEqual(len(zlib.decompress(data[at + 4 : at + 4 + length])), 40 * (60 * 3 + 1))

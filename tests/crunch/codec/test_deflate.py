"""Inflating the data of a PNG before Pillow decodes it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from PIL import PngImagePlugin
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec import deflate
from fxprofile.crunch.codec.decoders import PngFile
from fxprofile.crunch.codec.deflate import StoredStream
from tests.corpus.drawing import drawing, photo, saved

LIBRARIES = (zlib, deflate.library)


def in_pieces(data: bytes, most: int) -> Callable[[int], bytes]:
    """Return a function that reads at most so many bytes, and fails when called after the end."""
    pieces = [data[at : at + most] for at in range(0, len(data), most)] + [b""]
    return lambda size: pieces.pop(0)


def all_of(stored: StoredStream) -> bytes:
    return b"".join(iter(stored.read, b""))


class StoredTests(SynchronousTestCase):
    """A zlib stream converted to stored blocks."""

    @given(
        st.binary(max_size=300),
        st.integers(1, 2000),
        st.integers(0, 9),
        st.sampled_from((zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED)),
        st.integers(1, 1 << 16),
        st.sampled_from(LIBRARIES),
    )
    def test_the_data_is_unchanged(
        self, seed: bytes, times: int, level: int, strategy: int, most: int, library: object
    ) -> None:
        """Any data, deflated with any settings and read in pieces of any size, is unchanged."""
        self.patch(deflate, "library", library)
        packer = zlib.compressobj(level, strategy=strategy)
        packed = packer.compress(seed * times) + packer.flush()
        most = max(most, len(packed) // 1000)
        stored = all_of(StoredStream(in_pieces(packed + b"more", most)))
        self.assertEqual(zlib.decompress(stored), seed * times)

    def test_a_piece_is_at_most_one_block(self) -> None:
        """No piece is larger than one stored block, however much the data inflates to."""
        packed = zlib.compress(bytes(5 << 20))
        for library in LIBRARIES:
            self.patch(deflate, "library", library)
            stored = StoredStream(io.BytesIO(packed).read)
            pieces = list(iter(stored.read, b""))
            self.assertLessEqual(max(map(len, pieces)), (1 << 16) + 4)
            self.assertEqual(zlib.decompress(b"".join(pieces)), bytes(5 << 20))

    def test_the_checksum_is_that_of_the_data(self) -> None:
        """A wrong or missing checksum is replaced by that of the inflated data."""
        packed = zlib.compress(b"avatar" * 100)
        for damaged in (packed[:-4], packed[:-4] + b"none", packed[:-1]):
            stored = all_of(StoredStream(in_pieces(damaged, 50)))
            self.assertEqual(zlib.decompress(stored), b"avatar" * 100)

    @given(st.integers(0, 700), st.sampled_from(LIBRARIES))
    def test_a_truncated_stream_ends_early(self, length: int, library: object) -> None:
        """A truncated stream yields the data before the cut, and then nothing."""
        self.patch(deflate, "library", library)
        whole = photo(20, 12).tobytes()
        packed = zlib.compress(whole)[:length]
        stored = StoredStream(in_pieces(packed, 100))
        inflater = zlib.decompressobj()
        found = inflater.decompress(all_of(stored))
        self.assertFalse(inflater.eof)
        self.assertEqual(found, zlib.decompressobj().decompress(packed))
        self.assertEqual(stored.read(), b"")

    def test_damaged_streams_raise(self) -> None:
        """Data that is not a zlib stream, or is damaged, raises an error."""
        packed = zlib.compress(photo(40, 30).tobytes(), 0)
        for damaged in (b"\x79" + packed[1:], b"\x78\x21" + packed[2:], packed[:2] + b"\x07" * 9):
            for library in LIBRARIES:
                self.patch(deflate, "library", library)
                with self.assertRaises((ValueError, library.error)):
                    all_of(StoredStream(in_pieces(damaged, 30)))


class PngTests(SynchronousTestCase):
    """PNGs decoded through a stored stream."""

    def test_pngs_decode_as_with_pillow_alone(self) -> None:
        """A PNG of any mode decodes to the same pixels and metadata as with Pillow alone."""
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            for image in (photo(300, 200), drawing(300, 200)):
                data = saved(image.convert("L" if mode == "I;16" else mode).convert(mode), "PNG")
                found = PngFile(io.BytesIO(data))
                wanted = PngImagePlugin.PngImageFile(io.BytesIO(data))
                self.assertEqual(found.tobytes(), wanted.tobytes())
                self.assertEqual((found.mode, found.info), (wanted.mode, wanted.info))

    def test_each_frame_is_a_stream(self) -> None:
        """Each frame of an animation is inflated as a stream of its own."""
        file = io.BytesIO()
        frames = [photo(90, 60).rotate(angle) for angle in (0, 30, 60)]
        frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
        data = file.getvalue()
        found, wanted = PngFile(io.BytesIO(data)), PngImagePlugin.PngImageFile(io.BytesIO(data))
        for number in range(3):
            found.seek(number)
            wanted.seek(number)
            self.assertEqual(found.tobytes(), wanted.tobytes())

    def test_metadata_after_the_pixels_is_read(self) -> None:
        """A text chunk after the pixels is read."""
        data = saved(photo(90, 60), "PNG")
        text = b"tEXtkey\0value"
        chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
        found = PngFile(io.BytesIO(data[:-12] + chunk + data[-12:]))
        found.load()
        self.assertEqual(found.text, {"key": "value"})

    def test_truncated_pngs_raise(self) -> None:
        """A truncated PNG raises an error, as with Pillow alone."""
        data = saved(photo(90, 60), "PNG")
        for length in (45, 60, len(data) // 2, len(data) - 100):
            with self.assertRaises((OSError, SyntaxError)):
                PngImagePlugin.PngImageFile(io.BytesIO(data[:length])).load()
            with self.assertRaises((OSError, SyntaxError)):
                PngFile(io.BytesIO(data[:length])).load()

"""Tests of :mod:`fxprofile.crunch.codec.containers`: what is read, kept and refused."""

from __future__ import annotations

import io
import mmap
import struct
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.containers import READERS, read_container
from fxprofile.crunch.codec.containers.contents import Buffer, Contents
from fxprofile.crunch.codec.containers.exif import orientation
from fxprofile.crunch.limits import Limits, Refused
from tests.corpus import seeds
from tests.corpus.drawing import drawing, exif, photo, saved
from tests.corpus.jpeg import (
    hidden_scans,
    many_scans,
    plain,
    scan_per_component,
    segment,
    thumbnail_scans,
    two_pictures,
    with_segments,
)
from tests.corpus.webp import extended


class ContainerTests(SynchronousTestCase):
    """Behaviour that all readers share."""

    def test_an_honest_image_keeps_its_sides_and_its_pixels(self) -> None:
        """The clean stream of an honest image decodes to the same pixels as the file."""
        for name, data in seeds().items():
            contents = read_container(data, Limits())
            image = Image.open(io.BytesIO(data))
            self.assertEqual(contents.canvas, image.size, name)
            if contents.frame is None:
                clean = Image.open(io.BytesIO(contents.stream.read()))
                self.assertEqual(clean.convert("RGBA").tobytes(), image.convert("RGBA").tobytes())

    def test_reading_a_clean_stream_does_not_change_it(self) -> None:
        """The clean stream of a clean stream is the same stream."""
        for name, data in seeds().items():
            once = read_container(data, Limits()).stream.read()
            self.assertEqual(read_container(once, Limits()).stream.read(), once, name)

    def test_a_mapped_file_is_read_like_bytes(self) -> None:
        """A mapped file gives the same contents as its bytes."""
        for name, data in seeds().items():
            with tempfile.TemporaryFile() as file:
                file.write(data)
                file.flush()
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.assertEqual(
                    read_container(mapped, Limits()).stream.read(),
                    read_container(data, Limits()).stream.read(),
                    name,
                )

    @given(st.sampled_from(sorted(seeds().values())), st.data())
    def test_a_damaged_image_is_read_or_refused(self, data: bytes, drawn: st.DataObject) -> None:
        """A damaged image is read, or refused with a reason; nothing else is raised."""
        damaged = bytearray(data)
        for _ in range(drawn.draw(st.integers(1, 6))):
            damaged[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
        del damaged[drawn.draw(st.integers(1, len(damaged))) :]
        with_any_outcome(bytes(damaged))

    @given(st.sampled_from(sorted(READERS)), st.binary(max_size=400))
    def test_any_bytes_are_read_or_refused(self, kind: str, data: bytes) -> None:
        """Each reader accepts arbitrary bytes or raises Refused."""
        try:
            READERS[kind](data, Limits())
        except Refused as refused:
            self.assertIn(refused.reason, ("corrupt", "unsupported", "too_large"))


def with_any_outcome(data: bytes) -> Contents | None:
    """Read an image that may be refused."""
    try:
        return read_container(data, Limits(heic=True))
    except Refused:
        return None


class OrientationTests(SynchronousTestCase):
    """The reader of EXIF."""

    def test_each_orientation_is_read(self) -> None:
        """Each orientation is read, with and without the marker, in both byte orders."""
        for value in range(1, 9):
            self.assertEqual(orientation(exif(value)), value)
            for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
                tiff = mark + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, value, 0)
                self.assertEqual(orientation(tiff), value)
                self.assertEqual(orientation(b"Exif\0\0" + tiff), value)

    def test_an_invalid_entry_is_skipped(self) -> None:
        """An orientation after an invalid entry is read."""
        entries = struct.pack(">HHII", 0x010F, 77, 0xFFFFFFFF, 0xFFFFFFFF)
        entries += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
        tiff = b"MM\0*" + struct.pack(">IH", 8, 2)
        self.assertEqual(orientation(tiff + entries), 6)

    def test_invalid_orientations_are_upright(self) -> None:
        """Orientations 0 and 9, and one of a wrong type, count as upright."""
        for kind, value in ((3, 0), (3, 9), (2, 6)):
            tiff = b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, kind, 1, value, 0)
            self.assertEqual(orientation(tiff), 1)

    @given(st.binary(max_size=100).map(lambda tail: b"II*\0" + tail))
    def test_any_bytes_have_an_orientation(self, data: bytes) -> None:
        """Any bytes have one of the eight orientations."""
        self.assertIn(orientation(data), range(1, 9))


class JpegTests(SynchronousTestCase):
    """JPEGs with too many segments, fill bytes or scans, and JPEGs that lack some."""

    def reason(self, data: Buffer, max_scans: int = 100) -> str | None:
        """Return why a JPEG is refused, None if it is not."""
        try:
            read_container(data, Limits(max_scans=max_scans))
        except Refused as refused:
            return refused.reason
        return None

    def test_honest_files_pass(self) -> None:
        """Honest files with several pictures, thumbnails or scans are accepted."""
        progressive = saved(photo(), "JPEG", progressive=True)
        for data in (plain(), two_pictures(), thumbnail_scans(), progressive):
            self.assertIsNone(self.reason(data))

    def test_several_scans_cost_like_progressive(self) -> None:
        """A sequential JPEG of several scans has the pixel limit of a progressive one."""
        for data, is_scalable in ((plain(), True), (scan_per_component(), False)):
            contents = read_container(data, Limits())
            self.assertEqual(contents.mcu is not None, is_scalable)

    def test_scans_are_counted(self) -> None:
        """A JPEG may have as many scans as the limit, and not one more."""
        data = many_scans(40, side=64)
        self.assertEqual(self.reason(data, max_scans=39), "too_large")
        self.assertIsNone(self.reason(data, max_scans=40))

    def test_scans_after_a_false_end_are_counted(self) -> None:
        """Scans after a comment that contains an EOI marker are counted."""
        self.assertEqual(self.reason(hidden_scans()), "too_large")

    def test_scans_after_the_end_are_not_counted(self) -> None:
        """Scans after the EOI marker are not counted."""
        self.assertIsNone(self.reason(plain() + b"\xff\xda\0\x02" * 1000))

    def test_restarts_belong_to_their_scan(self) -> None:
        """A restart marker does not count as the start of a scan."""
        file = io.BytesIO()
        drawing().save(file, "JPEG", restart_marker_blocks=1)
        self.assertGreater(file.getvalue().count(b"\xff\xd0"), 100)
        self.assertIsNone(self.reason(file.getvalue(), max_scans=1))

    def test_thousands_of_segments_are_too_many(self) -> None:
        """A JPEG with thousands of segments before or between its scans is refused."""
        start, end = plain()[:-2], plain()[-2:]
        many = segment(0xFE, b"x") * 10_000
        self.assertEqual(self.reason(with_segments(plain(), many)), "too_large")
        self.assertEqual(self.reason(start + many + segment(0xDA, b"x") * 101 + end), "too_large")

    def test_a_few_fill_bytes_are_allowed(self) -> None:
        """A hundred fill bytes are allowed, a hundred thousand are not."""
        self.assertIsNone(self.reason(b"\xff\xd8" + b"\xff" * 100 + plain()[2:]))
        for filler in (b"\xff", b"\0"):
            data = b"\xff\xd8\xff" + filler * 100_000 + plain()[2:]
            self.assertEqual(self.reason(data), "too_large")

    def test_an_end_is_supplied_where_it_is_missing(self) -> None:
        """A JPEG without an EOI marker is marked as truncated, and its clean stream has one."""
        contents = read_container(plain()[:-2], Limits())
        self.assertTrue(contents.is_truncated)
        self.assertEqual(contents.stream.read()[-2:], b"\xff\xd9")

    def test_metadata_is_dropped(self) -> None:
        """The clean stream has neither EXIF nor comments nor a profile."""
        data = saved(drawing(), "JPEG", exif=exif(6), comment=b"hello", icc_profile=b"profile")
        contents = read_container(data, Limits())
        self.assertEqual(contents.orientation, 6)
        self.assertEqual(contents.colour.icc, b"profile")
        for text in (b"Exif", b"hello", b"ICC_PROFILE"):
            self.assertNotIn(text, contents.stream.read())


class WebPTests(SynchronousTestCase):
    """The reader of WebP."""

    def test_the_sides_are_those_of_the_picture(self) -> None:
        """The width and height of a WebP are those of its picture, not of the claimed canvas."""
        data = saved(drawing(320, 120), "WEBP")
        for claimed in (data, extended(16_000, 16_000, data[12:])):
            self.assertEqual(read_container(claimed, Limits()).canvas, (320, 120))

"""Limits on a JPEG that are checked before Pillow opens it."""

from __future__ import annotations

import io
import mmap
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.headers import Buffer, check_jpeg
from fxprofile.crunch.limits import Refused
from tests.corpus.drawing import drawing, photo, saved
from tests.corpus.jpeg import (
    hidden_scans,
    many_scans,
    plain,
    segment,
    thumbnail_scans,
    two_pictures,
    with_segments,
)


class CheckJpegTests(SynchronousTestCase):
    """Which JPEGs exceed a limit."""

    def refused(self, data: Buffer, max_scans: int = 100) -> bool:
        try:
            check_jpeg(data, max_scans=max_scans)
        except Refused as refused:
            self.assertEqual(refused.reason, "too_large")
            return True
        return False

    def test_honest_files_pass(self) -> None:
        """Baseline, progressive and multi-picture files pass."""
        for data in (
            plain(),
            two_pictures(),
            thumbnail_scans(),
            saved(photo(), "JPEG", progressive=True),
        ):
            self.assertFalse(self.refused(data))

    def test_scans_are_counted(self) -> None:
        """A file with one scan more than the limit is refused."""
        data = many_scans(40, side=64)
        self.assertTrue(self.refused(data, max_scans=39))
        self.assertFalse(self.refused(data, max_scans=40))

    def test_scans_after_a_fake_end_are_counted(self) -> None:
        """Scans after a comment that contains an EOI marker are counted."""
        self.assertTrue(self.refused(hidden_scans()))

    def test_scans_after_the_end_are_ignored(self) -> None:
        """Bytes after the EOI marker are not counted as scans."""
        self.assertFalse(self.refused(plain() + b"\xff\xda\0\x02" * 1000))

    def test_restart_markers_are_not_scans(self) -> None:
        """Restart markers within a scan are not counted."""
        file = io.BytesIO()
        drawing().save(file, "JPEG", restart_marker_blocks=1)
        self.assertGreater(file.getvalue().count(b"\xff\xd0"), 100)
        self.assertFalse(self.refused(file.getvalue(), max_scans=1))

    def test_too_many_segments_are_refused(self) -> None:
        """Thousands of segments are refused, before the first scan and between scans."""
        start, end = plain()[:-2], plain()[-2:]
        many = segment(0xFE, b"x") * 10_000
        self.assertTrue(self.refused(with_segments(plain(), many)))
        self.assertTrue(self.refused(start + many + segment(0xDA, b"x") * 101 + end))

    def test_too_many_fill_bytes_are_refused(self) -> None:
        """A hundred fill bytes pass, a hundred thousand are refused."""
        self.assertFalse(self.refused(b"\xff\xd8" + b"\xff" * 100 + plain()[2:]))
        self.assertTrue(self.refused(b"\xff\xd8" + b"\xff" * 100_000 + plain()[2:]))
        self.assertTrue(self.refused(b"\xff\xd8" + bytes(100_000) + plain()[2:]))

    def test_mapped_files_are_read(self) -> None:
        """A memory-mapped file is checked like bytes."""
        with tempfile.TemporaryFile() as file:
            file.write(many_scans(101, side=64))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self.assertTrue(self.refused(data))

    @given(st.binary(max_size=400).map(lambda tail: b"\xff\xd8\xff" + tail))
    def test_arbitrary_bytes_raise_no_other_error(self, data: bytes) -> None:
        """Arbitrary bytes pass or raise Refused."""
        self.refused(data, max_scans=3)

    @given(
        st.lists(
            st.sampled_from(
                (
                    b"\xff\xda\0\x03x",
                    b"\xff\xd9",
                    b"\xff\0",
                    b"\xff\xd3",
                    b"ab",
                    b"\xff\xfe\0\x04\xff\xda",
                )
            ),
            max_size=60,
        )
    )
    def test_the_count_equals_a_slow_one(self, pieces: list[bytes]) -> None:
        """The count of scans equals that of a reader that walks segment by segment."""
        scans = 0
        for piece in pieces:
            if piece == b"\xff\xd9":
                break
            scans += piece.startswith(b"\xff\xda")
        data = b"\xff\xd8" + b"".join(pieces)
        self.assertEqual(self.refused(data, max_scans=5), scans > 5)

"""
Tests of :mod:`tests.support.fakes.cruncher`.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fxprofile.model.avatars import Variant
from fxprofile.model.keys import VARIANTS
from fxprofile.model.ports import ICruncher
from tests.support.fakes.cruncher import FakeCruncher, pictures_of


class FakeCruncherTests(SynchronousTestCase):
    """The cruncher of tests that need no real images."""

    def test_pictures_differ_by_original_and_variant(self) -> None:
        """Pictures differ by original and by variant, and their variants give size and length."""
        one, other = pictures_of(b"1"), pictures_of(b"2")
        self.assertEqual(set(one), set(VARIANTS))
        datas = {data for pictures in (one, other) for _, data in pictures.values()}
        self.assertEqual(len(datas), 6)
        self.assertEqual(one["large"][0], Variant(600, 300, len(one["large"][1])))

    def test_the_fake_provides_the_interface(self) -> None:
        """The fake provides ICruncher."""
        verifyObject(ICruncher, FakeCruncher())

"""The accessibility checker of the browser tests."""

from __future__ import annotations

from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from tests.browser.axe import PATH, SHA256


class AxeTests(SynchronousTestCase):
    """The copy of axe-core."""

    def test_copy_is_the_published_file(self) -> None:
        """The copy of axe-core is the published file, byte for byte."""
        self.assertEqual(sha256(PATH.read_bytes()).hexdigest(), SHA256)

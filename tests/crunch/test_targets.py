"""The targets of the fuzzer, with a few inputs each."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from tests.crunch.targets import TARGETS, beginnings

HONEST = {name: list(beginnings(name)) for name in TARGETS}


class TargetTests(SynchronousTestCase):
    """The targets of the fuzzer."""

    def test_make_fuzz_runs_every_target(self) -> None:
        """``make fuzz`` runs every target and no other."""
        makefile = (Path(fxprofile.__file__).parent.parent / "Makefile").read_text()
        named = re.findall(r"^fuzz: TARGETS \?= (.+)$", makefile, re.MULTILINE)
        self.assertEqual([sorted(names.split()) for names in named], [sorted(TARGETS)])

    def test_honest_files_have_no_fault(self) -> None:
        """No target finds a fault with an honest file."""
        for name, target in TARGETS.items():
            self.assertTrue(HONEST[name])
            for data in HONEST[name]:
                target(data)

    @given(st.sampled_from(sorted(TARGETS)), st.data())
    def test_damaged_files_have_no_fault(self, name: str, drawn: st.DataObject) -> None:
        """No target finds a fault with a damaged file."""
        data = bytearray(drawn.draw(st.sampled_from(HONEST[name])))
        for _ in range(drawn.draw(st.integers(1, 4))):
            data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
        del data[drawn.draw(st.integers(1, len(data))) :]
        TARGETS[name](bytes(data))

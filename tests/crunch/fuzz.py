"""
Fuzzing of our own parsers, guided by what they cover, with Atheris (the extra ``fuzz``).

    python -m tests.crunch.fuzz sniff|jpeg|webp|stored|result|png|extras [options of libFuzzer]

It begins with honest files of its own and goes on until it finds something, or for as
many seconds as ``-max_total_time`` says; it leaves what it found as ``crash-…``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fxprofile.crunch"]):
    from tests.crunch.targets import TARGETS, beginnings

if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(beginnings(chosen)):
            Path(directory, str(number)).write_bytes(data)
        atheris.Setup([*sys.argv, directory], TARGETS[chosen])
        atheris.Fuzz()

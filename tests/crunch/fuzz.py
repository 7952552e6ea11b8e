"""
Coverage-guided fuzzing of our own parsers, with Atheris (the extra ``fuzz``).

    python -m tests.crunch.fuzz TARGET [options of libFuzzer]

TARGET is ``sniff``, ``jpeg``, ``container``, ``webp``, ``stored``, ``result``, ``png`` or
``other_formats``.  Fuzzing starts from honest files and ends at the first fault, or after
``-max_total_time`` seconds; it writes the input of a fault to ``crash-…``.
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

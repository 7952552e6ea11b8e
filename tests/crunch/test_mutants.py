"""Damaged images."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

#: How many; more in longer runs.
COUNT = int(os.environ.get("FXPROFILE_MUTANTS", "4000"))


class MutantTests(SynchronousTestCase):
    """Damaged copies of honest images of every kind."""

    def test_damaged_images_never_crash_a_child(self) -> None:
        """Each damaged image is accepted or refused with a reason; no child crashes."""
        seed = int(os.environ.get("FXPROFILE_SEED", random.randrange(1 << 32)))
        print(f"{COUNT} mutants; FXPROFILE_SEED={seed} makes the same ones again")
        done = subprocess.run(
            [sys.executable, "-m", "tests.crunch.mutants", str(seed), str(COUNT)],
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            timeout=600,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        found = json.loads(done.stdout)
        self.assertEqual(found["bad"], {}, f"seed {seed}")
        self.assertEqual(sum(found["outcomes"].values()), COUNT)
        # If all of them were refused, the decoders would not be tested.
        self.assertGreater(found["outcomes"]["ready"], COUNT // 20)
        self.assertGreater(found["outcomes"]["corrupt"], COUNT // 20)

"""What a helper has in memory, of which each child gets a copy."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Imports the helper, does what it does before its first image, and prints the packages.
_PROGRAM = """
import sys
import fxprofile.crunch.helper.main
from fxprofile.crunch.codec.job import warm_up
from fxprofile.crunch.limits import Limits
warm_up(Limits())
print(*sorted({*(name.partition(".")[0] for name in sys.modules), *sys.modules}))
"""


class ImportTests(SynchronousTestCase):
    def test_a_helper_has_only_the_codecs(self) -> None:
        """A helper imports the codecs, and neither Twisted, nor settings, nor TLS."""
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _PROGRAM]
        printed = subprocess.run(command, env=environ, capture_output=True, check=True, text=True)
        names = set(printed.stdout.split())
        self.assertIn("PIL", names)
        never = {"twisted", "zope", "attr", "pydantic", "sqlalchemy", "ssl", "asyncio"}
        self.assertEqual(names & (never | {"numpy.random"}), set())

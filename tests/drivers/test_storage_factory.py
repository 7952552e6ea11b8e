"""
Tests of :mod:`fxprofile.drivers.storage`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.s3 import S3Bucket
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.drivers.storage import bucket_from_config
from fxprofile.settings.model import Settings
from tests.drivers.aws.support import InlineThreads

ROOT = Path(__file__).parents[2]


class FactoryTests(SynchronousTestCase):
    def test_drivers(self) -> None:
        """The settings choose the driver."""
        for driver, kind in (("filesystem", FilesystemBucket), ("s3", S3Bucket)):
            settings = Settings(storage={"driver": driver})
            for which in ("private", "public"):
                bucket = bucket_from_config(
                    settings, which, reactor=Clock(), threads=InlineThreads()
                )
                self.assertIsInstance(bucket, kind)
                self.assertIn(f"fxprofile-{which}", repr(bucket))

    def imported(self, program: str) -> list[str]:
        """What a new process has imported in the end."""
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules, sep='\\n')"],
            capture_output=True,
            check=True,
            cwd=ROOT,
            text=True,
        )
        return done.stdout.split()

    def test_files_need_no_botocore(self) -> None:
        """A process that keeps its objects in files never imports botocore."""
        modules = self.imported(
            "from fxprofile.settings.model import Settings\n"
            "from fxprofile.drivers.storage import bucket_from_config\n"
            "bucket_from_config(Settings(), 'private', reactor=None, threads=None)"
        )
        self.assertIn("fxprofile.drivers.filesystem.bucket", modules)
        self.assertEqual(
            [m for m in modules if m.startswith(("botocore", "fxprofile.drivers.aws"))], []
        )

    def test_no_reactor(self) -> None:
        """The drivers choose no reactor, and do not import the blocking half of botocore."""
        modules = self.imported("import fxprofile.drivers.aws.s3, fxprofile.drivers.aws.sqs")
        self.assertIn("botocore.parsers", modules)
        for name in ("twisted.internet.reactor", "botocore.client", "botocore.session"):
            self.assertNotIn(name, modules)

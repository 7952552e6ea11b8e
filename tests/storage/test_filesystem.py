"""
Tests of :mod:`fxprofile.storage.filesystem`.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.aio import Threads
from fxprofile.storage.filesystem import FilesystemBucket
from tests.contracts.bucket import BucketContract


class FilesystemBucketContractTests(BucketContract, TestCase):
    def setUp(self) -> None:
        threads = Threads(reactor, "files", 3)
        threads.startService()
        self.addCleanup(threads.stopService)
        self.bucket = FilesystemBucket(threads, Path(self.mktemp()) / "bucket", reactor)

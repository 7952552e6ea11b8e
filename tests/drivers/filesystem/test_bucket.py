"""
Tests of :mod:`fxprofile.drivers.filesystem.bucket`.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.drivers.filesystem.folder import INCOMING
from fxprofile.model.errors import ObjectNotFound, StorageError
from tests.contracts.bucket import BucketContract, ScriptedBody
from tests.drivers.filesystem.folder_case import NOBODY, FolderCase, descriptors, files_below


class FilesystemBucketContractTests(BucketContract, TestCase):
    def setUp(self) -> None:
        threads = Threads(reactor, "files", 3)
        threads.startService()
        self.addCleanup(threads.stopService)
        self.before = descriptors()
        self.path = Path(self.mktemp()) / "bucket"
        self.bucket = FilesystemBucket(threads, self.path, reactor)

    def tearDown(self) -> None:
        left = self.path / INCOMING
        if left.exists():
            self.assertEqual(os.listdir(left), [])
        self.assertEqual([d for d in descriptors() if str(self.path) in d], [])


class FailureTests(FolderCase):
    """An error of the system is a StorageError with its reason."""

    @contextmanager
    def as_nobody(self) -> Iterator[None]:
        if os.getuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    def test_a_folder_without_permission_is_an_error(self) -> None:
        """A put into a folder that is not writable fails with "Permission denied"."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o500)
        if os.getuid() == 0:
            parent = self.path.parent
            while parent.stat().st_mode & 0o005 != 0o005:
                parent.chmod(parent.stat().st_mode | 0o005)
                parent = parent.parent
            os.chown(self.path, NOBODY, NOBODY)
        with self.as_nobody():
            text = self.failure(StorageError, self.put("k"))
            self.assertIn("put k", text)
            self.assertIn("Permission denied", text)
            with self.assertRaises(PermissionError) as caught:
                self.bucket.make_folder()
            self.assertEqual(caught.exception.filename, str(self.path))
        self.assertEqual(files_below(self.path), [])

    def test_a_write_over_the_file_size_limit_stores_nothing(self) -> None:
        """A write that is cut short and then refused stores nothing."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            text = self.failure(StorageError, self.put("k", b"x" * 200_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertIn("File too large", text)
        self.assertEqual(files_below(self.path), [])
        self.assertEqual(descriptors(), before)

    def test_a_full_file_system_stores_nothing(self) -> None:
        """A put without disk space fails, and one that fits succeeds."""
        self.path.mkdir(parents=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", self.path],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            raise SkipTest("needs the right to mount")
        self.addCleanup(subprocess.run, ["umount", "-l", self.path], check=True)
        text = self.failure(StorageError, self.put("k", b"x" * 400_000))
        self.assertIn("No space left", text)
        self.assertEqual(files_below(self.path), [])
        self.result(self.put("k", b"x" * 100_000))

    def test_a_file_in_place_of_the_folder_is_an_error(self) -> None:
        """Every method fails if the folder of the bucket is a file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.assertIn("Not a directory", self.failure(StorageError, self.put("k")))
        self.failure(StorageError, self.bucket.check())
        self.failure(StorageError, self.bucket.list(prefix="", after="", limit=1))
        self.failure(ObjectNotFound, self.bucket.get(key="k"))

    def test_a_truncated_file_is_an_error(self) -> None:
        """A file that is truncated while it is read ends with an error."""
        self.result(self.put("k", b"x" * 200_000))
        _, body = self.result(self.bucket.get(key="k"))
        os.truncate(self.path / "k", 70_000)
        before = descriptors()
        self.failure(StorageError, read_all(body, 1 << 20))
        self.assertLess(len(descriptors()), len(before))

    def test_an_object_cannot_be_a_folder_too(self) -> None:
        """A key below another key is refused."""
        self.result(self.put("a"))
        self.failure(StorageError, self.put("a/b"))
        self.result(self.put("b/c"))
        self.failure(StorageError, self.put("b"))
        self.assertEqual(files_below(self.path), ["a", "b/c"])

    def test_a_removed_folder_is_created_again(self) -> None:
        """The next put creates a folder that was removed."""
        self.result(self.put("a/k"))
        shutil.rmtree(self.path)
        self.assertEqual(self.keys(), [])
        self.failure(ObjectNotFound, self.bucket.get(key="a/k"))
        self.result(self.bucket.delete(keys=["a/k"]))
        self.result(self.put("a/k"))
        self.assertEqual(self.keys(), ["a/k"])

    def test_a_put_whose_file_was_removed_fails(self) -> None:
        """A put whose temporary file is removed fails, and leaves nothing."""
        gate: Deferred[None] = Deferred()
        putting = Deferred.fromCoroutine(
            self.bucket.put(
                key="k", body=ScriptedBody(b"a", gate, b"b"), length=2, content_type="image/png"
            )
        )
        shutil.rmtree(self.path)
        before = len(descriptors())
        gate.callback(None)
        self.failureResultOf(putting, StorageError)
        self.assertEqual(len(descriptors()), before - 1)
        self.assertEqual(self.keys(), [])

"""
Tests of :mod:`fxprofile.drivers.filesystem.space`: the reserve of a disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.drivers.filesystem.space import RESERVE, DiskSpace
from fxprofile.model.errors import StorageError
from tests.drivers.filesystem.folder_case import InlineThreads


class Disk:
    """A disk of 4 KiB blocks with so many bytes in all, and so many free ones."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free

    def statvfs(self, path: Path) -> os.statvfs_result:
        blocks, free = self.total >> 12, self.free >> 12
        return os.statvfs_result((65536, 4096, blocks, free + 1000, free, 9, 9, 9, 0, 255))


class DiskSpaceTests(TestCase):
    """What uploads may take of a disk."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def space(self, disk: Disk, reserve: int | None = None) -> DiskSpace:
        return DiskSpace(InlineThreads(), self.path, reserve, disk.statvfs)

    async def put(self, bucket: FilesystemBucket, data: bytes) -> None:
        await bucket.put(key="a", body=BytesBody(data), length=len(data), content_type="x/y")

    async def test_default_reserve(self) -> None:
        """The default reserve is 256 MiB, or 5 % of a small disk."""
        for total, reserve in ((1 << 40, RESERVE), (100 << 20, 5 << 20)):
            space = self.space(Disk(total, 300 << 20))
            self.assertEqual(await space.available(), (300 << 20) - reserve)

    async def test_configured_reserve(self) -> None:
        """A configured reserve applies to a disk of any size; 0 is none."""
        self.assertEqual(await self.space(Disk(1 << 30, 8192), 4096).available(), 4096)
        self.assertEqual(await self.space(Disk(1 << 30, 4096), 8192).available(), -4096)
        self.assertEqual(await self.space(Disk(1 << 30, 4096), 0).available(), 4096)

    async def test_check(self) -> None:
        """The check says "low" until more than the reserve is free."""
        disk = Disk(1 << 30, 8192)
        space = self.space(disk, 8192)
        self.assertEqual(await space.check(), "low")
        disk.free += 4096
        self.assertEqual(await space.check(), "ok")

    async def test_unreadable_disk(self) -> None:
        """A disk whose free space cannot be read raises StorageError."""
        space = DiskSpace(InlineThreads(), self.path / "missing")
        with self.assertRaises(StorageError):
            await space.available()

    async def test_put_into_the_reserve_fails(self) -> None:
        """
        A put fails if it would take the reserve, and leaves nothing; an empty object, and a put
        into a bucket without a reserve, succeed.
        """
        disk = Disk(1 << 30, 12288)
        options: dict[str, Any] = {"space": self.space(disk, 8192)}
        bucket = FilesystemBucket(InlineThreads(), self.path / "private", Clock(), **options)
        public = FilesystemBucket(InlineThreads(), self.path / "public", Clock())
        with self.assertRaises(StorageError):
            await self.put(bucket, bytes(4097))
        self.assertEqual(list(await bucket.list(prefix="", after="", limit=9)), [])
        await self.put(bucket, bytes(4096))
        disk.free = 0
        await self.put(bucket, b"")
        await self.put(public, bytes(4097))
        self.assertEqual((await bucket.head(key="a")).length, 0)

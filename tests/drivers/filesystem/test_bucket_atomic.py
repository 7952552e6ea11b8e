"""Tests of atomic puts, and of cancelled puts and gets, in the filesystem bucket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.model.errors import StorageError
from fxprofile.model.ports import NewObject
from tests.contracts.bucket import ScriptedBody
from tests.drivers.filesystem.folder_case import (
    InlineThreads,
    SteppedThreads,
    descriptors,
    files_below,
)


class AtomicityTests(SynchronousTestCase):
    """Puts and gets that are cancelled at every step."""

    def interrupted(self, start: Callable[[FilesystemBucket], Any], how: str) -> Iterator[Path]:
        """
        Run an operation repeatedly, and cancel it one step later each time.

        :param how: ``cancel``; ``twice`` to cancel the clean-up as well; ``close`` to close
            the coroutine, as garbage collection does.
        :returns: the folder, after each run.
        """
        moment = 0
        finished = False
        while not finished:
            path = Path(self.mktemp())
            threads = SteppedThreads()
            bucket = FilesystemBucket(threads, path, Clock())
            before = descriptors()
            coroutine = start(bucket)
            if how == "close":
                finished = self._close_after(moment, coroutine, threads)
            else:
                finished = self._cancel_after(moment, coroutine, threads, how == "twice")
            while threads.step():
                pass
            self.assertEqual(descriptors(), before, f"{how} after {moment} steps")
            yield path
            moment += 1
        self.assertGreater(moment, 1)

    def _cancel_after(
        self, moment: int, coroutine: Any, threads: SteppedThreads, twice: bool
    ) -> bool:
        outcome: list[Any] = []
        running = Deferred.fromCoroutine(coroutine)
        running.addBoth(outcome.append)
        for _ in range(moment):
            threads.step()
        if outcome:
            return True
        running.cancel()
        if twice:
            running.cancel()
        while threads.step():
            pass
        self.assertIs(outcome[0].type, CancelledError)
        return False

    def _close_after(self, moment: int, coroutine: Any, threads: SteppedThreads) -> bool:
        try:
            waiter = coroutine.send(None)
            for _ in range(moment):
                threads.step()
                self.assertTrue(waiter.called)
                waiter = coroutine.send(None)
        except StopIteration:
            return True
        coroutine.close()
        return False

    def test_a_cancelled_put_leaves_nothing(self) -> None:
        """A put that is cancelled at any step leaves nothing; a finished one leaves the object."""
        for how in ("cancel", "twice", "close"):
            left = []
            for path in self.interrupted(
                lambda bucket: bucket.put(
                    key="a/k", body=ScriptedBody(b"ab", b"cd"), length=4, content_type="image/png"
                ),
                how,
            ):
                left.append(files_below(path) if path.exists() else [])
            self.assertEqual(left.pop(), ["a/k"])
            self.assertEqual([files for files in left if files], [])
            self.assertEqual((path / "a/k").read_bytes(), b"abcd")

    def test_a_cancelled_put_of_several_leaves_nothing(self) -> None:
        """A put of several objects that is cancelled leaves nothing; a finished one leaves all."""
        objects = [NewObject(f"a/{n}", b"x", "image/png") for n in range(3)]
        for how in ("cancel", "twice", "close"):
            *cancelled, done = self.interrupted(lambda b: b.put_all(objects=objects), how)
            left = [files_below(path) if path.exists() else [] for path in cancelled]
            self.assertEqual([files for files in left if files], [])
            self.assertEqual(files_below(done), ["a/0", "a/1", "a/2"])

    def test_a_failed_put_of_several_leaves_nothing_new(self) -> None:
        """If one of several objects cannot be put, only one that existed before is there."""
        path = Path(self.mktemp())
        bucket = FilesystemBucket(InlineThreads(), path, Clock())
        old = [NewObject(key, b"old", "image/png") for key in ("a/1", "b")]
        self.successResultOf(Deferred.fromCoroutine(bucket.put_all(objects=old)))
        new = [NewObject(key, b"new", "image/png") for key in ("a/1", "a/2", "b/3")]
        putting = Deferred.fromCoroutine(bucket.put_all(objects=new))
        self.failureResultOf(putting, StorageError)
        self.assertEqual(files_below(path), ["a/1", "b"])

    def cancelled_while_publishing(self, between: bytes | None = None) -> Path:
        """Cancel a put whose object is already visible; another put may precede the clean-up."""
        threads = SteppedThreads()
        path = Path(self.mktemp())
        bucket = FilesystemBucket(threads, path, Clock())
        other = FilesystemBucket(InlineThreads(), path, Clock())
        for older in range(2):
            putting = Deferred.fromCoroutine(
                bucket.put(key="k", body=BytesBody(b"ab"), length=2, content_type="image/png")
            )
            if older == 0 and between == b"older":
                threads.step()
                self.successResultOf(putting)
                continue
            break
        publish = threads.waiting.pop(0)
        putting.cancel()
        publish()
        self.assertNoResult(putting)
        if between == b"newer":
            put = other.put(key="k", body=BytesBody(b"new"), length=3, content_type="image/png")
            self.successResultOf(Deferred.fromCoroutine(put))
        while threads.step():
            pass
        self.failureResultOf(putting, CancelledError)
        return path

    def test_a_put_cancelled_while_publishing_is_removed(self) -> None:
        """A put that is cancelled when its object is already visible removes it."""
        self.assertEqual(files_below(self.cancelled_while_publishing()), [])

    def test_a_replacement_stays_after_a_cancel(self) -> None:
        """A cancelled put that has replaced an older object does not remove it."""
        path = self.cancelled_while_publishing(b"older")
        self.assertEqual((path / "k").read_bytes(), b"ab")

    def test_a_newer_object_stays_after_a_cancel(self) -> None:
        """A cancelled put does not remove what another put has stored since."""
        path = self.cancelled_while_publishing(b"newer")
        self.assertEqual((path / "k").read_bytes(), b"new")

    def test_a_cancelled_get_closes_its_file(self) -> None:
        """A get that is cancelled at any step leaves no open descriptor."""

        async def read(bucket: FilesystemBucket) -> None:
            inline = FilesystemBucket(InlineThreads(), bucket.folder.path, Clock())
            data = b"x" * 200_000
            await inline.put(key="k", body=BytesBody(data), length=200_000, content_type="x/y")
            _, body = await bucket.get(key="k")
            await read_all(body, 1 << 20)

        for how in ("cancel", "twice", "close"):
            for path in self.interrupted(read, how):
                self.assertEqual(files_below(path), ["k"])

    def test_a_dropped_body_closes_its_file(self) -> None:
        """A body that is garbage-collected without aclose closes its descriptor."""
        bucket = FilesystemBucket(InlineThreads(), Path(self.mktemp()), Clock())
        put = bucket.put(
            key="k", body=BytesBody(b"x" * 100_000), length=100_000, content_type="x/y"
        )
        self.successResultOf(Deferred.fromCoroutine(put))
        before = descriptors()
        got = self.successResultOf(Deferred.fromCoroutine(bucket.get(key="k")))
        self.assertNotEqual(descriptors(), before)
        del got
        self.assertEqual(descriptors(), before)


class CostTests(SynchronousTestCase):
    """How many calls in threads, and how many syncs, an operation costs."""

    def test_calls_and_syncs(self) -> None:
        """
        A small object is put in one call and two syncs, and several of one folder in one call that
        syncs each file and the folder once; objects of one folder are deleted in one call and one
        sync.
        """
        synced: list[bool] = []
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
            sync(descriptor)

        self.patch(os, "fsync", fsync)
        threads = SteppedThreads()
        bucket = FilesystemBucket(threads, Path(self.mktemp()), Clock())

        def cost(work: Coroutine[Any, Any, None]) -> tuple[int, list[bool]]:
            synced.clear()
            running = Deferred.fromCoroutine(work)
            calls = 0
            while threads.step():
                calls += 1
            self.successResultOf(running)
            return calls, list(synced)

        keys, costs = ["a/1", "a/2", "a/3"], []
        for key in keys:
            body = BytesBody(b"abc")
            put = bucket.put(key=key, body=body, length=3, content_type="image/png")
            costs.append(cost(put))
        # The first one has made the folder.
        self.assertEqual(costs[1:], [(1, [False, True])] * 2)
        objects = [NewObject(key, b"abcd", "image/png") for key in keys]
        self.assertEqual(cost(bucket.put_all(objects=objects)), (1, [False] * 3 + [True]))
        # The folder itself is removed, too.
        self.assertEqual(cost(bucket.delete(keys=keys)), (1, [True]))
        self.assertEqual(cost(bucket.delete(keys=keys)), (1, []))

"""
Tests of :mod:`fxprofile.storage.filesystem`.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.aio import BytesBody, Threads, read_all
from fxprofile.errors import ObjectNotFound, StorageError
from fxprofile.storage.filesystem import CLEANING_PERIOD, FilesystemBucket
from fxprofile.storage.upload import INCOMING
from tests.contracts.bucket import BucketContract, ScriptedBody

NOBODY = 65534


class InlineThreads:
    """Runs each call at once."""

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return maybeDeferred(call, *args, **kwargs)


class SteppedThreads:
    """
    Runs each call when the test says so; like a thread, also when nobody waits for it
    any longer.

    :ivar waiting: what is to be run.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        waiter: Deferred[Any] = Deferred()

        def step() -> None:
            maybeDeferred(call, *args, **kwargs).addBoth(waiter.callback)

        self.waiting.append(step)
        return waiter

    def step(self) -> bool:
        if self.waiting:
            self.waiting.pop(0)()
            return True
        return False


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # The listing's own.
    return sorted(found)


def files_below(path: Path) -> list[str]:
    """The paths of all files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir())


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


class Harness(SynchronousTestCase):
    """A bucket whose calls are made at once, on a clock that stands."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "bucket"
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.bucket = self.make_bucket()

    def make_bucket(self, **options: Any) -> FilesystemBucket:
        return FilesystemBucket(InlineThreads(), self.path, self.clock, **options)

    def result(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def failure(self, kind: type[Exception], work: Any) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(work), kind)
        self.assertIs(failure.type, kind)
        return str(failure.value)

    def put(self, key: str, data: bytes = b"x") -> Any:
        return self.bucket.put(
            key=key, body=BytesBody(data), length=len(data), content_type="image/png"
        )

    def keys(self) -> list[str]:
        return [i.key for i in self.result(self.bucket.list(prefix="", after="", limit=1000))]


class AtomicityTests(SynchronousTestCase):
    """Each put and get, given up at each moment there is."""

    def given_up(self, start: Callable[[FilesystemBucket], Any], how: str) -> Iterator[Path]:
        """
        Run an operation again and again, giving it up one step later each time.

        :param how: ``cancel``, or ``twice`` to cancel the cleaning as well, or ``close``
            for what happens to a coroutine that nobody refers to any more.
        :returns: after each run, the folder.
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
        self.assertGreater(moment, 2)

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

    def test_put(self) -> None:
        """A put that is given up leaves nothing; one that is not, a whole object."""
        for how in ("cancel", "twice", "close"):
            left = []
            for path in self.given_up(
                lambda bucket: bucket.put(
                    key="a/k", body=ScriptedBody(b"ab", b"cd"), length=4, content_type="image/png"
                ),
                how,
            ):
                left.append(files_below(path) if path.exists() else [])
            self.assertEqual(left.pop(), ["a/k"])
            self.assertEqual([files for files in left if files], [])
            self.assertEqual((path / "a/k").read_bytes(), b"abcd")

    def cancelled_while_it_publishes(self, between: bytes | None = None) -> Path:
        """Cancel a put whose file has its name already; somebody else may put in between."""
        threads = SteppedThreads()
        path = Path(self.mktemp())
        bucket = FilesystemBucket(threads, path, Clock())
        other = FilesystemBucket(InlineThreads(), path, Clock())
        for older in range(2):
            putting = Deferred.fromCoroutine(
                bucket.put(key="k", body=BytesBody(b"ab"), length=2, content_type="image/png")
            )
            threads.step()
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

    def test_cancelled_while_it_publishes(self) -> None:
        """A put that is cancelled when the object has its name takes it away again."""
        self.assertEqual(files_below(self.cancelled_while_it_publishes()), [])

    def test_cancelled_after_it_replaced(self) -> None:
        """It does not take away what has replaced an older object."""
        path = self.cancelled_while_it_publishes(b"older")
        self.assertEqual((path / "k").read_bytes(), b"ab")

    def test_cancelled_after_it_was_replaced(self) -> None:
        """Nor what somebody else has put there since."""
        path = self.cancelled_while_it_publishes(b"newer")
        self.assertEqual((path / "k").read_bytes(), b"new")

    def test_get(self) -> None:
        """A get that is given up leaves no descriptor open."""

        async def read(bucket: FilesystemBucket) -> None:
            inline = FilesystemBucket(InlineThreads(), bucket.folder.path, Clock())
            data = b"x" * 200_000
            await inline.put(key="k", body=BytesBody(data), length=200_000, content_type="x/y")
            _, body = await bucket.get(key="k")
            await read_all(body, 1 << 20)

        for how in ("cancel", "twice", "close"):
            for path in self.given_up(read, how):
                self.assertEqual(files_below(path), ["k"])

    def test_body_collected(self) -> None:
        """A body that nobody closes is closed when nobody refers to it."""
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


class FailureTests(Harness):
    """What the system refuses is a StorageError that says so."""

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

    def test_no_permission(self) -> None:
        """A folder that may not be written to: EACCES."""
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

    def test_disk_full(self) -> None:
        """A write that the system cuts short and then refuses stores nothing."""
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

    def test_no_space(self) -> None:
        """A file system without space: ENOSPC; it works again when there is some."""
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

    def test_not_a_folder(self) -> None:
        """A file where the bucket's folder should be: every method says so."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.assertIn("Not a directory", self.failure(StorageError, self.put("k")))
        self.failure(StorageError, self.bucket.check())
        self.failure(StorageError, self.bucket.list(prefix="", after="", limit=1))
        self.failure(ObjectNotFound, self.bucket.get(key="k"))

    def test_file_shrinks(self) -> None:
        """A file that somebody cuts while it is read ends in an error, not in silence."""
        self.result(self.put("k", b"x" * 200_000))
        _, body = self.result(self.bucket.get(key="k"))
        os.truncate(self.path / "k", 70_000)
        before = descriptors()
        self.failure(StorageError, read_all(body, 1 << 20))
        self.assertLess(len(descriptors()), len(before))

    def test_folder_under_an_object(self) -> None:
        """An object cannot be a folder too."""
        self.result(self.put("a"))
        self.failure(StorageError, self.put("a/b"))
        self.result(self.put("b/c"))
        self.failure(StorageError, self.put("b"))
        self.assertEqual(files_below(self.path), ["a", "b/c"])

    def test_folder_removed(self) -> None:
        """If the folder is removed under our feet the next put makes it again."""
        self.result(self.put("a/k"))
        shutil.rmtree(self.path)
        self.assertEqual(self.keys(), [])
        self.failure(ObjectNotFound, self.bucket.get(key="a/k"))
        self.result(self.bucket.delete(keys=["a/k"]))
        self.result(self.put("a/k"))
        self.assertEqual(self.keys(), ["a/k"])

    def test_folder_removed_in_the_middle(self) -> None:
        """A put whose file is removed with the folder fails, and leaves nothing."""
        gate: Deferred[None] = Deferred()
        putting = Deferred.fromCoroutine(
            self.bucket.put(
                key="k", body=ScriptedBody(b"a", gate), length=1, content_type="image/png"
            )
        )
        shutil.rmtree(self.path)
        before = len(descriptors())
        gate.callback(None)
        self.failureResultOf(putting, StorageError)
        self.assertEqual(len(descriptors()), before - 1)
        self.assertEqual(self.keys(), [])


class JailTests(Harness):
    """Nothing outside the bucket is reached, whatever lies in it."""

    def setUp(self) -> None:
        super().setUp()
        self.outside = self.path.parent / "outside"
        self.outside.mkdir(parents=True)
        (self.outside / "secret").write_bytes(b"secret")
        self.path.mkdir()

    def test_links_are_refused(self) -> None:
        """Neither a link to a file nor one to a folder is followed."""
        (self.path / "file").symlink_to(self.outside / "secret")
        (self.path / "folder").symlink_to(self.outside)
        for key in ("file", "folder/secret"):
            self.failure(ObjectNotFound, self.bucket.get(key=key))
            self.failure(ObjectNotFound, self.bucket.head(key=key))
        self.failure(StorageError, self.put("folder/new"))
        self.result(self.bucket.delete(keys=["folder/secret"]))
        self.assertEqual(self.keys(), [])
        self.assertEqual(files_below(self.outside), ["secret"])

    def test_link_replaced(self) -> None:
        """A put in place of a link replaces the link and not what it points to."""
        (self.path / "k").symlink_to(self.outside / "secret")
        self.result(self.put("k", b"new"))
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")
        self.assertFalse((self.path / "k").is_symlink())

    def test_incoming_is_a_link(self) -> None:
        """Nor is the folder of uploads in progress written or swept through a link."""
        (self.path / INCOMING).symlink_to(self.outside)
        self.failure(StorageError, self.put("k"))
        self.failure(StorageError, self.bucket.clean())
        self.assertEqual(files_below(self.outside), ["secret"])

    def test_bucket_is_a_link(self) -> None:
        """The bucket's own folder may be a link: that is for the operator to say."""
        self.path.rmdir()
        self.path.symlink_to(self.outside)
        self.assertEqual(self.keys(), ["secret"])
        self.result(self.put("k"))

    def test_pipe(self) -> None:
        """A named pipe is not an object, and stops nothing."""
        os.mkfifo(self.path / "k")
        self.failure(ObjectNotFound, self.bucket.get(key="k"))
        self.failure(ObjectNotFound, self.bucket.head(key="k"))
        self.assertEqual(self.keys(), [])

    @given(st.text(max_size=40) | st.from_regex(r"[./a\\\0-]{1,12}", fullmatch=True))
    def test_any_key(self, key: str) -> None:
        """Any text either names an object below the folder, or is refused."""
        bucket = FilesystemBucket(InlineThreads(), self.path, Clock())
        put = bucket.put(key=key, body=BytesBody(b"x"), length=1, content_type="x/y")
        stored: list[Any] = []
        Deferred.fromCoroutine(put).addBoth(stored.append)
        [outcome] = stored
        if outcome is None:
            self.assertEqual(files_below(self.path), [key])
            self.result(bucket.delete(keys=[key]))
        else:
            self.assertIs(outcome.type, StorageError)
        self.assertEqual(files_below(self.path), [])
        self.assertEqual(files_below(self.outside), ["secret"])
        self.assertEqual(sorted(os.listdir(self.path.parent)), ["bucket", "outside"])

    @settings(max_examples=60)
    @given(
        st.sets(st.from_regex(r"[a.-]{1,2}(/[a.-]{1,2}){0,2}", fullmatch=True), max_size=8),
        st.text("a.-/", max_size=3),
        st.text("a.-/", max_size=3),
        st.integers(1, 3),
    )
    def test_any_list(self, keys: set[str], prefix: str, after: str, limit: int) -> None:
        """List gives what sorting and filtering all keys gives."""
        path = Path(self.mktemp())
        bucket = FilesystemBucket(InlineThreads(), path, Clock())
        stored = []
        for key in sorted(keys):
            put = bucket.put(key=key, body=BytesBody(b"x"), length=1, content_type="x/y")
            outcome: list[Any] = []
            Deferred.fromCoroutine(put).addBoth(outcome.append)
            if outcome == [None]:
                stored.append(key)
        outcome = []
        listing = bucket.list(prefix=prefix, after=after, limit=limit)
        Deferred.fromCoroutine(listing).addBoth(outcome.append)
        if isinstance(outcome[0], list):
            expected = [k for k in stored if k.startswith(prefix) and k > after][:limit]
            self.assertEqual([info.key for info in outcome[0]], expected)
        else:
            self.assertIs(outcome[0].type, StorageError)
        shutil.rmtree(path, ignore_errors=True)


class FolderTests(Harness):
    def modes(self) -> set[tuple[str, int]]:
        return {
            ("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
            for path in [self.path, *self.path.rglob("*")]
        }

    def test_modes(self) -> None:
        """Files and folders are the owner's alone, or also readable by the group."""
        for umask in (0, 0o077):
            old = os.umask(umask)
            try:
                self.bucket = self.make_bucket()
                self.result(self.put("a/k"))
                self.assertEqual(self.modes(), {("folder", 0o700), ("file", 0o600)})
                shutil.rmtree(self.path)
                self.bucket = self.make_bucket(shared=True)
                self.result(self.put("a/k"))
                self.assertEqual(self.modes(), {("folder", 0o750), ("file", 0o640)})
                shutil.rmtree(self.path)
            finally:
                os.umask(old)

    def test_nothing_until_needed(self) -> None:
        """Making a bucket and reading from it makes no folder."""
        self.failure(ObjectNotFound, self.bucket.get(key="k"))
        self.assertEqual(self.keys(), [])
        self.assertFalse(self.path.exists())

    def test_made_beforehand(self) -> None:
        """The folder can be made at the start, which shows whether it can be written to."""
        self.bucket.make_folder()
        self.bucket.make_folder()
        self.assertEqual(os.listdir(self.path), [INCOMING])
        self.result(self.put("k"))
        self.path = self.path / "k" / "below"
        with self.assertRaises(NotADirectoryError):
            self.make_bucket().make_folder()

    def test_empty_folders_go(self) -> None:
        """Delete removes the folders that it leaves empty, and no other."""
        self.result(self.put("a/b/c"))
        self.result(self.put("a/d"))
        self.result(self.bucket.delete(keys=["a/b/c"]))
        self.assertEqual(sorted(os.listdir(self.path / "a")), ["d"])
        self.result(self.bucket.delete(keys=["a/d"]))
        self.assertEqual(sorted(os.listdir(self.path)), [INCOMING])

    def test_dates(self) -> None:
        """Objects have the time of the clock, and one of their own each."""
        self.result(self.put("a", b"1"))
        self.result(self.put("b", b"2"))
        infos = self.result(self.bucket.list(prefix="", after="", limit=2))
        self.assertEqual([round(info.modified) for info in infos], [1_000_000_000] * 2)
        self.assertEqual(len({info.etag for info in infos}), 2)


class CleaningTests(Harness):
    def incoming(self) -> list[str]:
        return os.listdir(self.path / INCOMING)

    def test_live_upload_stays(self) -> None:
        """Another bucket object on the same folder does not sweep a live upload."""
        gate: Deferred[None] = Deferred()
        putting = Deferred.fromCoroutine(
            self.bucket.put(
                key="k", body=ScriptedBody(b"a", gate), length=1, content_type="image/png"
            )
        )
        self.result(self.make_bucket().clean())
        self.assertEqual(len(self.incoming()), 1)
        gate.callback(None)
        self.successResultOf(putting)
        self.assertEqual(self.keys(), ["k"])

    def test_killed(self) -> None:
        """What a process left that was killed with -9 is swept; what a live one writes is not."""
        killed, living = self.uploader(), self.uploader()
        self.result(self.make_bucket().clean())
        self.assertEqual(len(self.incoming()), 2)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        self.result(self.make_bucket().clean())
        self.assertEqual(len(self.incoming()), 1)
        living.stdin.write(b"\n")
        living.stdin.flush()
        self.assertEqual(living.wait(), 0)
        self.assertEqual(self.incoming(), [])
        self.assertEqual(self.keys(), ["k"])

    def uploader(self) -> subprocess.Popen[bytes]:
        """A process in the middle of a put, which goes on when it is sent a line."""
        program = f"""
import sys
from pathlib import Path
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from fxprofile.storage.filesystem import FilesystemBucket
class Inline:
    def run(self, call, *args):
        return maybeDeferred(call, *args)
async def body():
    yield b"a"
    await gate
    yield b"b"
bucket = FilesystemBucket(Inline(), Path({str(self.path)!r}), Clock())
gate = Deferred()
putting = Deferred.fromCoroutine(bucket.put(
    key="k", body=body(), length=2, content_type="image/png"))
print("ready", flush=True)
sys.stdin.readline()
gate.callback(None)
"""
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

        def end() -> None:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()

        self.addCleanup(end)
        self.assertEqual(child.stdout.readline(), b"ready\n")
        return child

    def test_expiry(self) -> None:
        """Started, a bucket removes what is too old, at once and every hour."""
        self.result(self.put("a/old"))
        self.clock.advance(CLEANING_PERIOD * 3)
        bucket = self.make_bucket(expire_after=CLEANING_PERIOD * 2)
        self.result(self.put("new"))
        bucket.startService()
        self.assertEqual(self.keys(), ["new"])
        self.assertFalse((self.path / "a").exists())
        self.clock.pump([CLEANING_PERIOD] * 2)
        self.assertEqual(self.keys(), ["new"])
        self.clock.pump([CLEANING_PERIOD])
        self.assertEqual(self.keys(), [])
        self.successResultOf(bucket.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_expiry(self) -> None:
        """Without an age nothing expires."""
        self.result(self.put("k"))
        self.clock.advance(1e9)
        self.bucket.startService()
        self.assertEqual(self.keys(), ["k"])
        self.successResultOf(self.bucket.stopService())

    def test_cleaning_survives_errors(self) -> None:
        """A cleaning that fails is logged, and the next one is on time."""
        self.path.mkdir(parents=True)
        (self.path / INCOMING).symlink_to("/")
        tries: list[Any] = []
        globalLogPublisher.addObserver(tries.append)
        self.addCleanup(globalLogPublisher.removeObserver, tries.append)
        self.bucket.startService()
        self.clock.pump([CLEANING_PERIOD] * 2)
        tries = [event for event in tries if "Cannot" in event["log_format"]]
        self.assertEqual(len(tries), 3)
        (self.path / INCOMING).unlink()
        (self.path / INCOMING).mkdir()
        (self.path / INCOMING / "left").touch()
        self.clock.advance(CLEANING_PERIOD)
        self.assertEqual(self.incoming(), [])
        self.successResultOf(self.bucket.stopService())

    def test_stops_while_it_cleans(self) -> None:
        """Stopping ends a cleaning early; starting again cleans again."""
        threads = SteppedThreads()
        bucket = FilesystemBucket(threads, self.path, self.clock, expire_after=1)
        bucket.startService()
        self.successResultOf(bucket.stopService())
        self.successResultOf(bucket.stopService())
        while threads.step():
            pass
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.result(self.put("old"))
        self.clock.advance(10)
        bucket.startService()
        while threads.step():
            pass
        self.assertEqual(self.keys(), [])
        self.successResultOf(bucket.stopService())

"""Tests of where the objects of a bucket lie, and of what is swept there."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.filesystem.bucket import CLEANING_PERIOD, FilesystemBucket
from fxprofile.drivers.filesystem.upload import INCOMING
from fxprofile.model.errors import ObjectNotFound, StorageError
from tests.contracts.bucket import ScriptedBody
from tests.drivers.filesystem.folders import Harness, InlineThreads, SteppedThreads, files_below


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
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
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
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
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

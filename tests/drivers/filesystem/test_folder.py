"""Tests of the files of a bucket, and of their clean-up."""

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
from fxprofile.drivers.filesystem.folder import INCOMING
from fxprofile.model.errors import ObjectNotFound, StorageError
from tests.contracts.bucket import ScriptedBody
from tests.drivers.filesystem.folder_case import (
    FolderCase,
    InlineThreads,
    SteppedThreads,
    files_below,
)


class JailTests(FolderCase):
    """A bucket reaches nothing outside its folder, even through links."""

    def setUp(self) -> None:
        super().setUp()
        self.outside = self.path.parent / "outside"
        self.outside.mkdir(parents=True)
        (self.outside / "secret").write_bytes(b"secret")
        self.path.mkdir()

    def test_links_are_not_followed(self) -> None:
        """Links to files and to folders inside the bucket are not followed."""
        (self.path / "file").symlink_to(self.outside / "secret")
        (self.path / "folder").symlink_to(self.outside)
        for key in ("file", "folder/secret"):
            self.failure(ObjectNotFound, self.bucket.get(key=key))
            self.failure(ObjectNotFound, self.bucket.head(key=key))
        self.failure(StorageError, self.put("folder/new"))
        self.result(self.bucket.delete(keys=["folder/secret"]))
        self.assertEqual(self.keys(), [])
        self.assertEqual(files_below(self.outside), ["secret"])

    def test_a_put_replaces_a_link(self) -> None:
        """A put under the name of a link replaces the link and not its target."""
        (self.path / "k").symlink_to(self.outside / "secret")
        self.result(self.put("k", b"new"))
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")
        self.assertFalse((self.path / "k").is_symlink())

    def test_the_folder_of_unfinished_uploads_is_no_link(self) -> None:
        """Uploads are neither written nor swept through a link."""
        (self.path / INCOMING).symlink_to(self.outside)
        self.failure(StorageError, self.put("k"))
        self.failure(StorageError, self.bucket.clean())
        self.assertEqual(files_below(self.outside), ["secret"])

    def test_the_bucket_itself_may_be_a_link(self) -> None:
        """The folder of the bucket may be a link, because the operator has chosen it."""
        self.path.rmdir()
        self.path.symlink_to(self.outside)
        self.assertEqual(self.keys(), ["secret"])
        self.result(self.put("k"))

    def test_a_named_pipe_is_not_an_object(self) -> None:
        """A named pipe is not found, and does not block the thread."""
        os.mkfifo(self.path / "k")
        self.failure(ObjectNotFound, self.bucket.get(key="k"))
        self.failure(ObjectNotFound, self.bucket.head(key="k"))
        self.assertEqual(self.keys(), [])

    @given(st.text(max_size=40) | st.from_regex(r"[./a\\\0-]{1,12}", fullmatch=True))
    def test_no_key_leads_out_of_the_folder(self, key: str) -> None:
        """Any text is either the key of an object below the folder, or refused."""
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
    def test_a_list_is_sorted_and_filtered(
        self, keys: set[str], prefix: str, after: str, limit: int
    ) -> None:
        """A list equals all keys, sorted and filtered."""
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


class FolderTests(FolderCase):
    def modes(self) -> set[tuple[str, int]]:
        return {
            ("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
            for path in [self.path, *self.path.rglob("*")]
        }

    def test_modes_do_not_depend_on_the_umask(self) -> None:
        """Files and folders are private to the owner, or readable by the group if shared."""
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

    def test_reading_creates_no_folder(self) -> None:
        """Reads of a missing bucket create no folder."""
        self.failure(ObjectNotFound, self.bucket.get(key="k"))
        self.assertEqual(self.keys(), [])
        self.assertFalse(self.path.exists())

    def test_make_folder_creates_a_writable_folder(self) -> None:
        """make_folder creates the folder, and fails where it cannot be created."""
        self.bucket.make_folder()
        self.bucket.make_folder()
        self.assertEqual(os.listdir(self.path), [INCOMING])
        self.result(self.put("k"))
        self.path = self.path / "k" / "below"
        with self.assertRaises(NotADirectoryError):
            self.make_bucket().make_folder()

    def test_a_delete_removes_empty_folders(self) -> None:
        """A delete removes the folders that become empty, and no others."""
        self.result(self.put("a/b/c"))
        self.result(self.put("a/d"))
        self.result(self.bucket.delete(keys=["a/b/c"]))
        self.assertEqual(sorted(os.listdir(self.path / "a")), ["d"])
        self.result(self.bucket.delete(keys=["a/d"]))
        self.assertEqual(sorted(os.listdir(self.path)), [INCOMING])

    def test_every_object_has_its_own_etag(self) -> None:
        """Objects have the time of the clock, and objects of one moment different ETags."""
        self.result(self.put("a", b"1"))
        self.result(self.put("b", b"2"))
        infos = self.result(self.bucket.list(prefix="", after="", limit=2))
        self.assertEqual([round(info.modified) for info in infos], [1_000_000_000] * 2)
        self.assertEqual(len({info.etag for info in infos}), 2)


class CleaningTests(FolderCase):
    def incoming(self) -> list[str]:
        return os.listdir(self.path / INCOMING)

    def test_a_running_upload_is_not_swept(self) -> None:
        """Another bucket on the same folder does not sweep a running upload."""
        gate: Deferred[None] = Deferred()
        putting = Deferred.fromCoroutine(
            self.bucket.put(
                key="k", body=ScriptedBody(b"a", gate, b"b"), length=2, content_type="image/png"
            )
        )
        self.result(self.make_bucket().clean())
        self.assertEqual(len(self.incoming()), 1)
        gate.callback(None)
        self.successResultOf(putting)
        self.assertEqual(self.keys(), ["k"])

    def test_the_uploads_of_killed_processes_are_swept(self) -> None:
        """The unfinished file of a killed process is removed; that of a running one is not."""
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
        """Start a process in the middle of a put, which continues when it reads a line."""
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

    def test_old_objects_expire(self) -> None:
        """A started bucket removes expired objects at once and every hour."""
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

    def test_objects_do_not_expire_by_default(self) -> None:
        """Without an expiry age, objects stay."""
        self.result(self.put("k"))
        self.clock.advance(1e9)
        self.bucket.startService()
        self.assertEqual(self.keys(), ["k"])
        self.successResultOf(self.bucket.stopService())

    def test_a_failed_cleaning_is_repeated(self) -> None:
        """A clean-up that fails is logged, and the next one runs on time."""
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

    def test_stopping_interrupts_a_cleaning(self) -> None:
        """Stopping ends a clean-up early; starting again cleans again."""
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

"""Tests of the pool, with real helpers and real children."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar

from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from fxprofile.crunch.commands import JOB
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.pool import CrunchPool
from fxprofile.crunch.sandbox import process
from fxprofile.model.avatars import is_placeholder
from fxprofile.model.errors import ChildFailed, CruncherUnavailable, ImageRefused
from fxprofile.model.ports import ICruncher

BAD = "tests.crunch.children:run"


def file_of(data: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(data)
    file.flush()
    return file


def picture(width: int = 300, height: int = 200, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, form)
    return file.getvalue()


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]


class PoolCase(TestCase):
    """A pool whose children do what their image says."""

    timeout = 120
    limits = Limits(timeout=20, cpu=10)
    processes = 2

    def make_pool(self, **changes: Any) -> CrunchPool:
        options: dict[str, Any] = {
            "processes": self.processes,
            "limits": self.limits,
            "mode": "best-effort",
            "job": BAD,
        }
        pool = CrunchPool(reactor, **options | changes)
        pool.startService()
        self.addCleanup(pool.stopService)
        return pool

    async def crunch(self, pool: CrunchPool, data: bytes) -> Any:
        with file_of(data) as original:
            return await pool.crunch(original=original)

    async def failure(self, pool: CrunchPool, data: bytes) -> ChildFailed:
        with self.assertRaises(ChildFailed) as caught:
            await self.crunch(pool, data)
        return caught.exception


class CrunchPoolTests(PoolCase):
    """What the pool does with images."""

    async def test_small_limits(self) -> None:
        """However little an image may have, the pool starts, and says what is too much."""
        limits = Limits(timeout=20, cpu=10, max_pixels=12, max_side=4, max_scans=1)
        pool = self.make_pool(limits=limits, job=JOB)
        with self.assertRaises(ImageRefused) as caught:
            await self.crunch(pool, picture())
        self.assertEqual(caught.exception.reason, "too_many_pixels")
        await self.crunch(pool, picture(3, 3))

    async def test_pictures(self) -> None:
        """An image becomes three PNGs that fit their boxes."""
        pool = self.make_pool()
        verifyObject(ICruncher, pool)
        crunched = await self.crunch(pool, picture(1200, 800, "JPEG"))
        self.assertEqual(set(crunched.pictures), {"png"})
        self.assertTrue(is_placeholder(crunched.placeholder))
        sides = {}
        for name, (variant, body) in crunched.pictures["png"].items():
            image = Image.open(io.BytesIO(body))
            self.assertEqual(image.format, "PNG")
            self.assertEqual(image.size, (variant.width, variant.height))
            self.assertEqual(len(body), variant.bytes)
            sides[name] = image.size
        self.assertEqual(sides, {"large": (600, 400), "default": (200, 133), "small": (100, 67)})

    async def test_formats(self) -> None:
        """What is wanted in other formats comes beside the PNGs, with the same sides."""
        pool = self.make_pool(limits=replace(self.limits, formats=("avif", "webp")))
        crunched = await self.crunch(pool, picture(1200, 800, "JPEG"))
        self.assertEqual(set(crunched.pictures), {"png", "webp", "avif"})
        for form, pictures in crunched.pictures.items():
            for name, (variant, body) in pictures.items():
                image = Image.open(io.BytesIO(body))
                self.assertEqual((image.format or "").lower(), form)
                self.assertEqual(image.size, (variant.width, variant.height))
                self.assertEqual(variant.width, crunched.pictures["png"][name][0].width)

    async def test_position(self) -> None:
        """The original is read from its beginning, and its position is left alone."""
        pool = self.make_pool()
        with file_of(picture()) as original:
            original.seek(17)
            await pool.crunch(original=original)
            self.assertEqual(os.lseek(original.fileno(), 0, os.SEEK_CUR), 17)

    async def test_refused(self) -> None:
        """An image that is at fault is refused for good, with the reason."""
        pool = self.make_pool()
        for data, reason in (
            (b"", "unsupported"),
            (b"<svg/>", "unsupported"),
            (picture()[:100], "corrupt"),
        ):
            with self.assertRaises(ImageRefused) as caught:
                await self.crunch(pool, data)
            self.assertEqual(caught.exception.reason, reason)

    async def test_ready(self) -> None:
        """The pool tells which layers are in force once a helper is up."""
        pool = self.make_pool()
        self.assertIsNone(pool.layers())
        layers = await pool.when_ready()
        self.assertTrue(layers["no_new_privs"])
        self.assertEqual(layers, pool.layers())
        self.assertIn("webp", pool.versions)

    async def test_slots(self) -> None:
        """No more images are worked on at one time than there are slots."""
        pool = self.make_pool(processes=2)
        await pool.when_ready()
        jobs = [Deferred.fromCoroutine(self.crunch(pool, b"sleep")) for _ in range(4)]
        await deferLater(reactor, 0.5)
        self.assertEqual(len(children_of(pool.helpers()[0])), 2)
        for job in jobs:
            job.cancel()
            await self.assertFailure(job, CancelledError)

    async def test_cancel(self) -> None:
        """Cancelling a job kills its child and frees its slot."""
        pool = self.make_pool(processes=1)
        await pool.when_ready()
        job = Deferred.fromCoroutine(self.crunch(pool, b"spin"))
        await deferLater(reactor, 0.3)
        job.cancel()
        await self.assertFailure(job, CancelledError)
        await self.crunch(pool, picture())
        self.assertEqual(children_of(pool.helpers()[0]), [])

    async def test_cancel_in_line(self) -> None:
        """A job that is cancelled before it has a slot takes none."""
        pool = self.make_pool(processes=1)
        first = Deferred.fromCoroutine(self.crunch(pool, picture()))
        second = Deferred.fromCoroutine(self.crunch(pool, picture()))
        second.cancel()
        await self.assertFailure(second, CancelledError)
        await first
        await self.crunch(pool, picture())

    async def test_many_helpers(self) -> None:
        """More slots than one helper should fork for get more helpers."""
        pool = self.make_pool(processes=9)
        await pool.when_ready()
        while len(pool.helpers()) < 2:
            await deferLater(reactor, 0.05)
        await gatherResults(
            [Deferred.fromCoroutine(self.crunch(pool, picture())) for _ in range(18)]
        )

    async def test_environment(self) -> None:
        """A helper has nothing of our environment, and no descriptor of ours."""
        os.environ["FXPROFILE_TEST_SECRET"] = "s3cret"
        self.addCleanup(os.environ.pop, "FXPROFILE_TEST_SECRET")
        leak, other = os.pipe()
        os.set_inheritable(leak, True)
        self.addCleanup(os.close, leak)
        self.addCleanup(os.close, other)
        pool = self.make_pool()
        await pool.when_ready()
        (helper,) = pool.helpers()
        self.assertNotIn(b"s3cret", Path(f"/proc/{helper}/environ").read_bytes())  # noqa: ASYNC240
        targets = {os.readlink(f"/proc/{helper}/fd/{n}") for n in os.listdir(f"/proc/{helper}/fd")}
        self.assertNotIn(f"pipe:[{os.fstat(leak).st_ino}]", targets)


class HelperDeathTests(PoolCase):
    """What the pool does when a helper is in trouble."""

    async def test_killed(self) -> None:
        """Jobs of a helper that dies fail as crashed, and the next one succeeds."""
        pool = self.make_pool()
        await pool.when_ready()
        job = Deferred.fromCoroutine(self.failure(pool, b"sleep"))
        await deferLater(reactor, 0.3)
        (helper,) = pool.helpers()
        (child,) = children_of(helper)
        os.kill(helper, signal.SIGKILL)
        self.assertEqual((await job).reason, "crashed")
        await self.crunch(pool, picture())
        self.assertNotEqual(pool.helpers(), [helper])
        # Whoever inherits it may not have waited for it yet.
        self.assertIn(process.status(child).get("State", "gone"), ("gone", "Z (zombie)"))

    async def test_hangs(self) -> None:
        """A helper that no longer answers is killed, and the next job succeeds."""
        pool = self.make_pool(limits=Limits(timeout=1, cpu=10))
        self.patch(pool, "grace", 0.5)
        await pool.when_ready()
        (helper,) = pool.helpers()
        os.kill(helper, signal.SIGSTOP)
        self.assertEqual((await self.failure(pool, picture())).reason, "crashed")
        while pool.helpers() in ([], [helper]):
            await deferLater(reactor, 0.05)
        await self.crunch(pool, picture())

    async def test_stop(self) -> None:
        """Stopping waits for the images in hand and leaves no process."""
        pool = self.make_pool()
        await pool.when_ready()
        (helper,) = pool.helpers()
        job = Deferred.fromCoroutine(self.crunch(pool, picture(600, 600)))
        await pool.stopService()
        await job
        self.assertNotIn(helper, children_of(os.getpid()))
        with self.assertRaises(CruncherUnavailable):
            await self.crunch(pool, picture())

    async def test_stop_early(self) -> None:
        """A pool that is stopped before its helper is up leaves no process."""
        before = children_of(os.getpid())
        pool = self.make_pool()
        await deferLater(reactor, 0.05)
        await pool.stopService()
        self.assertEqual(children_of(os.getpid()), before)

    async def test_cannot_start(self) -> None:
        """Where no helper comes up, a job fails in a way that asks for another try."""
        pool = self.make_pool(job="tests.crunch.children:missing", limits=Limits(timeout=2))
        with self.assertRaises(CruncherUnavailable):
            await self.crunch(pool, picture())


class BadChildTests(PoolCase):
    """What a child may do: it fails alone, with the right reason, and the next succeeds."""

    # Generous, since the machine of the tests may be busy; and short, for the tests that
    # have to wait for their end.
    limits = Limits(timeout=60, cpu=20, memory=256 << 20)
    short: ClassVar = {"limits": Limits(timeout=4, cpu=1, memory=256 << 20)}

    async def _fails(self, word: bytes, reason: str, **changes: Any) -> None:
        pool = self.make_pool(**changes)
        await pool.when_ready()
        beside = Deferred.fromCoroutine(self.crunch(pool, picture()))
        failure = await self.failure(pool, word)
        self.assertEqual(failure.reason, reason, failure.detail)
        await beside
        await self.crunch(pool, picture())
        self.assertEqual(children_of(pool.helpers()[0]), [])

    async def test_spin(self) -> None:
        """A child that spins runs out of processor time."""
        await self._fails(b"spin", "timeout", **self.short)

    async def test_sleep(self) -> None:
        """A child that sleeps runs out of time."""
        await self._fails(b"sleep", "timeout", **self.short)

    async def test_stop(self) -> None:
        """A child that stops itself runs out of time."""
        await self._fails(b"stop", "timeout", mode="off", **self.short)

    async def test_allocate(self) -> None:
        """A child that takes too much memory is told apart from a bad image."""
        await self._fails(b"allocate", "crashed")

    async def test_flood_stderr(self) -> None:
        """A child that floods standard error troubles nobody."""
        await self._fails(b"flood_stderr", "crashed")

    async def test_flood_result(self) -> None:
        """A child cannot write more than a result may have."""
        await self._fails(b"flood_result", "crashed")

    async def test_half_result(self) -> None:
        """Half a result is none."""
        await self._fails(b"half_result", "crashed")

    async def test_nothing(self) -> None:
        """A child that ends well without a result has failed."""
        await self._fails(b"nothing", "crashed")

    async def test_leave(self) -> None:
        """A child that leaves with a status has failed."""
        await self._fails(b"leave", "crashed")

    async def test_segfault(self) -> None:
        """A child that touches wrong memory has failed."""
        await self._fails(b"segfault", "crashed")

    async def test_raise(self) -> None:
        """A mistake in the job is a failure of the child."""
        await self._fails(b"raise_error", "crashed")

    async def test_hang_up(self) -> None:
        """A child that closes all it has is still killed in time."""
        await self._fails(b"hang_up", "timeout", **self.short)

    async def test_chatter(self) -> None:
        """A child that goes on talking to the helper is not listened to."""
        await self._fails(b"chatter", "timeout", **self.short)


class LeakTests(PoolCase):
    """What is left after many images."""

    async def test_a_thousand(self) -> None:
        """A thousand children, good and bad, leave no zombie, descriptor or temporary file."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.patch(tempfile, "tempdir", directory)
        pool = self.make_pool(processes=4)
        await pool.when_ready()
        (helper,) = pool.helpers()
        tiny = picture(4, 4)
        words = [tiny, b"nothing", tiny, b"leave", tiny[:40]]

        async def one(number: int) -> None:
            with contextlib.suppress(ChildFailed, ImageRefused):
                await self.crunch(pool, words[number % len(words)])

        async def counts() -> tuple[int, int]:
            while children_of(helper):
                await deferLater(reactor, 0.01)
            return tuple(len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), helper))

        for start in range(0, 20, 4):
            await gatherResults([Deferred.fromCoroutine(one(start + i)) for i in range(4)])
        before, children = await counts(), children_of(os.getpid())
        for start in range(0, 1000, 20):
            await gatherResults([Deferred.fromCoroutine(one(start + i)) for i in range(20)])
        self.assertEqual(await counts(), before)
        self.assertEqual(pool.helpers(), [helper])
        self.assertEqual(children_of(os.getpid()), children)
        self.assertEqual(os.listdir(directory), [])

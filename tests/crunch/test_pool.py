"""The pool, with real helpers and real children."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar

from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface.verify import verifyObject

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.pool import CrunchPool
from fxprofile.crunch.protocol import JOB
from fxprofile.crunch.sandbox import process
from fxprofile.model.avatars import BLURHASH, DIGEST
from fxprofile.model.errors import ChildFailed, CruncherUnavailable, ImageRefused
from fxprofile.model.ports import ICruncher
from tests.crunch import without_fork
from tests.crunch.children import HEIC

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


def state_of(pid: int) -> str:
    """Return the state of a process as the kernel names it, or "gone"."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return process.status(file.fileno()).get("State", "gone")
    except FileNotFoundError:
        return "gone"


#: A picture that takes some tenths of a second.
LABOUR = b"labour " + picture()


class PoolCase(TestCase):
    """Makes pools whose children do what their image says."""

    timeout = 120
    limits = Limits(timeout=20, cpu=10)
    processes = 2

    def make_pool(self, **changes: Any) -> CrunchPool:
        options: dict[str, Any] = {
            "processes": self.processes,
            "limits": self.limits,
            "mode": "best-effort",
            "job": BAD,
            "min_helpers": 1,
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
    """Crunching images in the pool."""

    async def test_only_a_heic_child_may_start_a_thread(self) -> None:
        """If HEIC is enabled, a child may start a thread only if its image is HEIC."""
        pool = self.make_pool(limits=replace(self.limits, heic=True))
        if not (await pool.when_ready())["seccomp"]:
            raise SkipTest("this system has no seccomp")
        denied = await self.failure(pool, b"thread ")
        self.assertIn("start new thread", denied.detail)
        allowed = await self.failure(pool, HEIC + b"thread ")
        self.assertIn("invalid result", allowed.detail)

    async def test_the_smallest_limits_are_enough_to_start(self) -> None:
        """A pool with the smallest limits starts, and refuses images above them."""
        limits = Limits(timeout=20, cpu=10, max_pixels=12, max_side=4, max_scans=1)
        pool = self.make_pool(limits=limits, job=JOB)
        with self.assertRaises(ImageRefused) as caught:
            await self.crunch(pool, picture())
        self.assertEqual(caught.exception.reason, "too_many_pixels")
        await self.crunch(pool, picture(3, 3))

    async def test_an_image_becomes_three_pngs(self) -> None:
        """An image becomes three PNGs that fit their boxes."""
        pool = self.make_pool()
        verifyObject(ICruncher, pool)
        crunched = await self.crunch(pool, picture(1200, 800, "JPEG"))
        self.assertEqual(set(crunched.pictures), {"png"})
        self.assertRegex(crunched.placeholder, BLURHASH)
        self.assertRegex(crunched.pixels, DIGEST)
        sides = {}
        for name, (variant, body) in crunched.pictures["png"].items():
            image = Image.open(io.BytesIO(body))
            self.assertEqual(image.format, "PNG")
            self.assertEqual(image.size, (variant.width, variant.height))
            self.assertEqual(len(body), variant.bytes)
            sides[name] = image.size
        self.assertEqual(sides, {"large": (600, 400), "default": (200, 133), "small": (100, 67)})

    async def test_other_formats_are_made_too(self) -> None:
        """Pictures in other formats are made besides the PNGs, with the same sides."""
        pool = self.make_pool(limits=replace(self.limits, formats=("avif", "webp")))
        crunched = await self.crunch(pool, picture(1200, 800, "JPEG"))
        self.assertEqual(set(crunched.pictures), {"png", "webp", "avif"})
        for form, pictures in crunched.pictures.items():
            for name, (variant, body) in pictures.items():
                image = Image.open(io.BytesIO(body))
                self.assertEqual((image.format or "").lower(), form)
                self.assertEqual(image.size, (variant.width, variant.height))
                self.assertEqual(variant.width, crunched.pictures["png"][name][0].width)

    async def test_the_position_of_the_original_is_irrelevant(self) -> None:
        """The original is read from its beginning, and its position is unchanged."""
        pool = self.make_pool()
        with file_of(picture()) as original:
            original.seek(17)
            await pool.crunch(original=original)
            self.assertEqual(os.lseek(original.fileno(), 0, os.SEEK_CUR), 17)

    async def test_invalid_images_are_refused(self) -> None:
        """An invalid image raises ImageRefused with the reason."""
        pool = self.make_pool()
        for data, reason in (
            (b"", "unsupported"),
            (b"<svg/>", "unsupported"),
            (picture()[:100], "corrupt"),
        ):
            with self.assertRaises(ImageRefused) as caught:
                await self.crunch(pool, data)
            self.assertEqual(caught.exception.reason, reason)

    async def test_layers_are_known_once_a_helper_is_ready(self) -> None:
        """The pool reports its sandbox layers and codecs once a helper is ready."""
        pool = self.make_pool()
        self.assertEqual(pool.layers, {})
        layers = await pool.when_ready()
        self.assertTrue(layers["no_new_privs"])
        self.assertEqual(layers, pool.layers)
        self.assertIn("webp", pool.versions)

    async def test_slots_limit_concurrent_children(self) -> None:
        """There are never more children than slots."""
        pool = self.make_pool(processes=2)
        await pool.when_ready()
        jobs = [Deferred.fromCoroutine(self.crunch(pool, b"sleep")) for _ in range(4)]
        await deferLater(reactor, 0.5)
        self.assertEqual(len(children_of(pool.helpers()[0])), 2)
        for job in jobs:
            job.cancel()
            await self.assertFailure(job, CancelledError)

    async def test_cancelling_a_job_kills_its_child(self) -> None:
        """Cancelling a job kills its child and frees its slot."""
        pool = self.make_pool(processes=1)
        await pool.when_ready()
        job = Deferred.fromCoroutine(self.crunch(pool, b"spin"))
        await deferLater(reactor, 0.3)
        job.cancel()
        await self.assertFailure(job, CancelledError)
        await self.crunch(pool, picture())
        self.assertEqual(children_of(pool.helpers()[0]), [])

    async def test_a_job_cancelled_before_its_slot_takes_none(self) -> None:
        """A job that is cancelled while it waits for a slot takes none."""
        pool = self.make_pool(processes=1)
        first = Deferred.fromCoroutine(self.crunch(pool, picture()))
        second = Deferred.fromCoroutine(self.crunch(pool, picture()))
        second.cancel()
        await self.assertFailure(second, CancelledError)
        await first
        await self.crunch(pool, picture())

    async def test_many_slots_get_several_helpers(self) -> None:
        """A pool with more slots than one helper serves starts several helpers."""
        pool = self.make_pool(processes=9)
        await pool.when_ready()
        while len(pool.helpers()) < 2:
            await deferLater(reactor, 0.05)
        await gatherResults(
            [Deferred.fromCoroutine(self.crunch(pool, picture())) for _ in range(18)]
        )

    async def test_a_helper_inherits_no_environment_or_descriptor(self) -> None:
        """A helper inherits neither the environment nor the descriptors of the pool."""
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
    """Helpers that end, hang or do not start."""

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(reactor, 0.02)

    async def test_jobs_of_a_killed_helper_are_run_again(self) -> None:
        """Images of helpers that are killed are crunched by other helpers."""
        pool = self.make_pool(min_helpers=2)
        await self.until(lambda: len(pool.helpers()) == 2)
        first = pool.helpers()
        jobs = [Deferred.fromCoroutine(self.crunch(pool, LABOUR)) for _ in range(4)]
        for helper in first:
            await self.until(lambda: children_of(helper) != [])  # noqa: B023
            child, *_ = children_of(helper)
            os.kill(helper, signal.SIGKILL)
            await self.until(lambda: helper not in pool.helpers())  # noqa: B023
        await gatherResults(jobs)
        self.assertEqual(set(first) & set(pool.helpers()), set())
        # The process that inherits it may not have reaped it yet.
        self.assertIn(state_of(child), ("gone", "Z (zombie)"))

    async def test_a_stopped_helper_is_replaced(self) -> None:
        """A helper that does not respond to pings is replaced, and its images are run again."""
        pool = self.make_pool(min_helpers=2)
        await self.until(lambda: len(pool.helpers()) == 2)
        stopped, _ = pool.helpers()
        jobs = [Deferred.fromCoroutine(self.crunch(pool, LABOUR)) for _ in range(2)]
        await self.until(lambda: children_of(stopped) != [])
        os.kill(stopped, signal.SIGSTOP)
        await gatherResults(jobs)
        await self.until(lambda: len(pool.helpers()) == 2)
        self.assertNotIn(stopped, pool.helpers())

    async def test_an_image_that_ends_three_helpers_is_refused(self) -> None:
        """An image that ends three helpers is refused; those that were with it succeed."""
        pool = self.make_pool(mode="off")
        await pool.when_ready()
        killer = Deferred.fromCoroutine(self.crunch(pool, b"kill_helper"))
        innocent = [Deferred.fromCoroutine(self.crunch(pool, LABOUR)) for _ in range(3)]
        refused = await self.assertFailure(killer, ImageRefused)
        self.assertEqual(refused.reason, "crashed")
        await gatherResults(innocent)

    async def test_an_image_waits_while_no_child_can_be_forked(self) -> None:
        """While no child can be forked, the pool is unhealthy, and images wait or are released."""
        flag = without_fork.flag(os.getpid())
        self.addCleanup(flag.unlink, missing_ok=True)
        pool = self.make_pool(job="tests.crunch.without_fork:run")
        await pool.when_ready()
        flag.touch()
        waiting = Deferred.fromCoroutine(self.crunch(pool, picture()))
        await self.until(lambda: not pool.helpers())
        with self.assertRaisesRegex(CruncherUnavailable, "cannot fork a child"):
            await pool.check()
        pool.patience = 0.5
        with self.assertRaisesRegex(CruncherUnavailable, "cannot fork a child"):
            await self.crunch(pool, picture())
        flag.unlink()
        await waiting
        await pool.check()

    async def test_an_image_is_not_blamed_if_no_image_can_be_crunched(self) -> None:
        """If children cannot crunch any image, the pool is unhealthy, and no image fails."""
        pool = self.make_pool(job="tests.crunch.children:leave")
        pool.patience = 5
        with self.assertRaisesRegex(CruncherUnavailable, "cannot crunch: crashed"):
            await self.crunch(pool, picture())
        with self.assertRaisesRegex(CruncherUnavailable, "cannot crunch: crashed"):
            await pool.check()

    async def test_a_starved_image_is_run_again(self) -> None:
        """An image whose child did not get the processor in its time is crunched again."""
        pool = self.make_pool(mode="off", limits=Limits(timeout=2, cpu=10))
        await pool.when_ready()
        with file_of(b"starve ") as original:
            job = Deferred.fromCoroutine(pool.crunch(original=original))
            (helper,) = pool.helpers()
            await self.until(lambda: children_of(helper) != [])
            await deferLater(reactor, 0.5)
            os.pwrite(original.fileno(), picture(), 0)
            await job

    async def test_a_starved_image_is_run_alone(self) -> None:
        """A child that starved once is run alone, and fails with a timeout if it starves again."""
        pool = self.make_pool(mode="off", limits=Limits(timeout=2, cpu=10))
        await pool.when_ready()
        (helper,) = pool.helpers()
        job = Deferred.fromCoroutine(self.failure(pool, b"starve "))
        await self.until(lambda: children_of(helper) != [])
        (first,) = children_of(helper)
        # These need so little of the processor that they do not starve, however busy it is.
        others = [Deferred.fromCoroutine(self.crunch(pool, picture())) for _ in range(2)]
        await self.until(lambda: first not in children_of(helper))
        await gatherResults(others)
        await self.until(lambda: children_of(helper) != [])
        late = Deferred.fromCoroutine(self.crunch(pool, picture()))
        await deferLater(reactor, 0.2)
        self.assertEqual(len(children_of(helper)), 1)
        self.assertEqual((await job).reason, "timeout")
        await late

    async def test_stopping_waits_for_images_in_flight(self) -> None:
        """Stopping waits for the images in flight and leaves no process."""
        pool = self.make_pool()
        await pool.when_ready()
        (helper,) = pool.helpers()
        job = Deferred.fromCoroutine(self.crunch(pool, picture(600, 600)))
        await pool.stopService()
        await job
        self.assertNotIn(helper, children_of(os.getpid()))
        with self.assertRaises(CruncherUnavailable):
            await self.crunch(pool, picture())

    async def test_stopping_refuses_waiting_jobs(self) -> None:
        """A job that waits for a slot or a helper when the pool stops raises at once."""
        pool = self.make_pool(processes=1)
        jobs = [Deferred.fromCoroutine(self.crunch(pool, picture())) for _ in range(3)]
        await pool.stopService()
        for job in jobs:
            await self.assertFailure(job, CruncherUnavailable)

    async def test_stopping_before_a_helper_is_ready(self) -> None:
        """A pool that is stopped before its helper is ready leaves no process."""
        before = children_of(os.getpid())
        pool = self.make_pool()
        await deferLater(reactor, 0.05)
        await pool.stopService()
        self.assertEqual(children_of(os.getpid()), before)

    async def test_stopping_while_the_drawing_is_crunched(self) -> None:
        """A pool that is stopped while a helper crunches the drawing leaves no process."""
        before = children_of(os.getpid())
        pool = self.make_pool(job="tests.crunch.children:spin")
        await self.until(lambda: len(pool.layers) > 0)
        await deferLater(reactor, 0.1)
        await pool.stopService()
        self.assertEqual(children_of(os.getpid()), before)

    async def test_children_are_polled_without_pidfd(self) -> None:
        """Where the kernel has no process descriptors, children are reaped and killed too."""
        pool = self.make_pool(job="tests.crunch.without_pidfd:run", processes=1)
        await self.crunch(pool, picture())
        job = Deferred.fromCoroutine(self.crunch(pool, b"spin"))
        await deferLater(reactor, 0.3)
        job.cancel()
        await self.assertFailure(job, CancelledError)
        await self.crunch(pool, picture())

    async def test_no_helper_is_unavailable(self) -> None:
        """If no helper becomes ready, a job raises CruncherUnavailable."""
        pool = self.make_pool(job="tests.crunch.children:missing", limits=Limits(timeout=2))
        pool.patience = 1
        with self.assertRaises(CruncherUnavailable):
            await self.crunch(pool, picture())


class BadChildTests(PoolCase):
    """A hostile child fails alone, with the right reason, and the next job succeeds."""

    # Generous, since the machine may be busy; and short, for tests that wait for the timeout.
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

    async def test_a_busy_loop_times_out(self) -> None:
        """A child in a busy loop exceeds its processor time."""
        await self._fails(b"spin", "timeout", **self.short)

    async def test_sleeping_times_out(self) -> None:
        """A child that sleeps exceeds its wall time."""
        await self._fails(b"sleep", "timeout", **self.short)

    async def test_a_stopped_child_times_out(self) -> None:
        """A child that stops itself with SIGSTOP exceeds its wall time."""
        await self._fails(b"stop", "timeout", mode="off", **self.short)

    async def test_allocating_too_much_is_a_crash(self) -> None:
        """A child that allocates more than its limit crashes; its image is not corrupt."""
        await self._fails(b"allocate", "crashed")

    async def test_flooding_standard_error_blocks_no_process(self) -> None:
        """A child that floods its standard error blocks neither itself nor the helper."""
        await self._fails(b"flood_stderr", "crashed")

    async def test_an_endless_result_is_stopped(self) -> None:
        """A child that writes more than the largest result file crashes."""
        await self._fails(b"flood_result", "crashed")

    async def test_half_a_result_is_a_crash(self) -> None:
        """A child that writes half a result file has crashed."""
        await self._fails(b"half_result", "crashed")

    async def test_no_result_is_a_crash(self) -> None:
        """A child that exits with 0 without a result file has crashed."""
        await self._fails(b"nothing", "crashed")

    async def test_an_exit_status_is_a_crash(self) -> None:
        """A child that exits with another status than 0 has crashed."""
        await self._fails(b"leave", "crashed")

    async def test_a_segmentation_fault_is_a_crash(self) -> None:
        """A child that is ended by SIGSEGV has crashed."""
        await self._fails(b"segfault", "crashed")

    async def test_an_exception_is_a_crash(self) -> None:
        """A child whose job raises an unexpected exception has crashed."""
        await self._fails(b"raise_error", "crashed")

    async def test_closing_all_descriptors_times_out(self) -> None:
        """A child that closes all of its descriptors is still killed at its timeout."""
        await self._fails(b"hang_up", "timeout", **self.short)

    async def test_further_reports_are_ignored(self) -> None:
        """A child that sends more reports to the helper is ignored, and times out."""
        await self._fails(b"chatter", "timeout", **self.short)


class LeakTests(PoolCase):
    """Resources after many images."""

    async def test_many_children_leak_nothing(self) -> None:
        """Two hundred children, good and bad, leave no zombie, descriptor or temporary file."""
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
        for start in range(0, 200, 20):
            await gatherResults([Deferred.fromCoroutine(one(start + i)) for i in range(20)])
        self.assertEqual(await counts(), before)
        self.assertEqual(pool.helpers(), [helper])
        self.assertEqual(children_of(os.getpid()), children)
        self.assertEqual(os.listdir(directory), [])

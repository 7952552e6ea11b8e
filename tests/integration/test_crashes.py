"""
A process that is killed before or after any step of an upload: nothing is lost, and
nothing stays that should not.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from tests.integration import photos
from tests.integration.client import PATIENCE, Client
from tests.integration.scene import Scene

#: Each step of the web role up to the answer, in its order.
INTAKE = ("private bucket.put", "store.accept", "jobs queue.send", "store.job_sent")

#: Each step of the worker, in its order; the pictures are put one by one.
WORKER = (
    "jobs queue.receive",
    "private bucket.get",
    "cruncher.crunch",
    *(f"public bucket.put {number}" for number in (1, 2, 3)),
    "results queue.send",
    "private bucket.delete",
    "jobs queue.delete",
)

#: Each step of the web role from the result on, in its order.
RESULT = ("results queue.receive", "store.ready", "results queue.delete")

#: Each step of a deletion.
DELETION = (
    "store.delete_current",
    "public bucket.delete",
    "private bucket.delete 2",
    "results queue.send 2",
    "store.deleted",
)

#: Crashes at one time.
AT_ONE_TIME = 6

QUICK = {"queue__visibility_timeout": 2, "uploads__wait": 0}


def point(step: str, moment: str) -> str:
    name, _, number = step.rpartition(" ")
    if number.isdigit():
        return f"{name}:{moment}:{number}"
    return f"{step}:{moment}"


class Crash:
    """
    A daemon that dies at a crash point, and is started again without it.

    :ivar accepted: the upload that was answered with 201, if one was.
    """

    def __init__(self, case: TestCase, step: str, moment: str, *, delete: bool) -> None:
        self._case = case
        self._scene = Scene(case)
        self._at = point(step, moment)
        self._delete = delete
        self.accepted: str | None = None

    async def run(self) -> None:
        """
        Let an upload, or the deletion of its avatar, run into the crash point, and see
        that nothing is lost and nothing stays.
        """
        try:
            await self._crash()
            await self._assert_all_is_well()
        except AssertionError as error:
            raise AssertionError(f"killed at {self._at}: {error}") from error

    async def _crash(self) -> None:
        self._scene.environ = {"FXPROFILE_CRASH_AT": self._at}
        try:
            daemon = await self._scene.daemon(
                **{**QUICK, "uploads__wait": 20 if self._delete else 0}
            )
        except RuntimeError:
            return  # Queues are received from as soon as it starts.
        finally:
            self._scene.environ = {}
        client = Client(daemon)
        try:
            status, answer = await client.upload(photos.jpeg(400, 300))
            self._case.assertEqual(status, 201)
            self.accepted = answer["id"]
            if self._delete:
                await client.ask("DELETE", "/v1/avatar")
        except (ResponseNeverReceived, ResponseFailed, ConnectionRefusedError):
            pass  # It died before it could answer.
        for _ in range(600):
            if not await daemon.runs():
                break
            await deferLater(reactor, 0.05)
        else:
            raise AssertionError("it was not reached")
        await daemon.kill()

    async def _assert_all_is_well(self) -> None:
        """
        The accepted upload arrives.  Then a further one takes its place, and in the end
        there is nothing but what is selected, besides an original that was never
        accepted, which expires by its age.
        """
        daemon = await self._scene.daemon(**QUICK)
        client = Client(daemon)
        if self.accepted is not None and not self._delete:
            await client.until(self.accepted, "ready")
        status, answer = await client.upload(photos.jpeg(300, 300))
        self._case.assertEqual(status, 201)
        await client.until(answer["id"], "ready")
        _, avatar = await client.ask("GET", "/v1/avatar")
        self._case.assertEqual(avatar["id"], answer["id"])
        await self._scene.assert_sizes(client, avatar["url"], (200, 200), (100, 100), (300, 300))
        kept = {f"fxprofile-public/a/{answer['id']}{s}" for s in ("", "_large", "_small")}

        def only_the_last() -> bool:
            left = set(self._scene.files())
            if self.accepted is None:
                left = {name for name in left if not name.startswith("fxprofile-private/")}
            return left == kept

        await self._scene.until(only_the_last, "only the last avatar is there")
        await daemon.stop()


class CrashTests(TestCase):
    """Most of the time is spent waiting, so several crashes go on at one time."""

    timeout = 9 * PATIENCE

    async def all_of(self, steps: Iterable[str], *, delete: bool = False) -> None:
        crashes = [
            Crash(self, step, moment, delete=delete)
            for step in steps
            for moment in ("before", "after")
        ]
        running = DeferredSemaphore(AT_ONE_TIME)
        await gatherResults(
            [running.run(Deferred.fromCoroutine, crash.run()) for crash in crashes],
            consumeErrors=True,
        )

    async def test_intake(self) -> None:
        """Killed around any step of the intake."""
        await self.all_of(INTAKE)

    async def test_worker(self) -> None:
        """Killed around any step of the worker."""
        await self.all_of(WORKER)

    async def test_result(self) -> None:
        """Killed around any step of applying a result."""
        await self.all_of(RESULT)

    async def test_deletion(self) -> None:
        """Killed around any step of a deletion."""
        await self.all_of(DELETION, delete=True)

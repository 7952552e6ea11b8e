"""
A process that is killed before or after any step of an upload loses nothing, and leaves
nothing behind.
"""

from __future__ import annotations

import itertools
import os
import signal
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
from tests.support.crashing import CrashPoint
from tests.support.daemon import Daemon

#: Each step of the web role up to the answer, in its order.
INTAKE = ("private_bucket.put", "store.accept", "jobs_queue.send", "store.job_sent")

#: Each step of the worker, in its order; the pictures are put one by one.
WORKER = (
    "jobs_queue.receive",
    "private_bucket.get",
    "cruncher.crunch",
    *(f"public_bucket.put {number}" for number in (1, 2, 3)),
    "results_queue.send",
    "private_bucket.delete",
    "jobs_queue.delete",
)

#: Each step of the web role from the result on, in its order.
RESULT = ("results_queue.receive", "store.ready", "results_queue.delete")

#: Each step of a deletion.
DELETION = (
    "store.delete_current",
    "public_bucket.delete",
    "private_bucket.delete 2",
    "results_queue.send 2",
    "store.deleted",
)

#: Each step of replacing an avatar: from the result on, and when the old one is gone.
REPLACEMENT = ("store.ready 2", "jobs_queue.send 3", "store.job_sent 3", "store.deleted")

#: A crash before a step leaves what a crash after the one before it leaves, so make test has
#: half of them; make soak has all.
MOMENTS = ("before", "after") if os.environ.get("FXPROFILE_CRASHES") == "all" else ("after",)

#: Steps between which the queues in the database have what those in memory have not.
ON_THE_DATABASE = ("jobs_queue.send", "results_queue.send", "private_bucket.delete")

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

    :param then: what follows the upload: ``nothing``, ``delete`` or ``replace``.
    :param queue: the setting ``queue.driver``.
    :ivar accepted: the last upload that was answered with 201, if one was.
    """

    def __init__(self, case: TestCase, step: str, moment: str, *, then: str, queue: str) -> None:
        self._case = case
        self._scene = Scene(case)
        self._scene.settings = {"queue.driver": queue}
        self._at = point(step, moment)
        self._then = then
        self.accepted: str | None = None

    async def run(self) -> None:
        """Crash at the point, start again, and check what is there."""
        try:
            await self._crash()
            await self._assert_all_is_well()
        except AssertionError as error:
            raise AssertionError(f"killed at {self._at}: {error}") from error

    async def _crash(self) -> None:
        wait = 0 if self._then == "nothing" else 20
        settings = {**QUICK, "uploads__wait": wait}
        try:
            daemon = await self._scene.daemon(crash_at=self._at, **settings)
        except RuntimeError:
            # Queues are received from as soon as it starts, so it may die before it is ready.
            daemon = self._scene.daemons[-1]
        else:
            await self._ask(daemon)
        self._case.assertEqual(daemon.exit_status, -signal.SIGKILL, daemon.output)
        self._case.assertIn(CrashPoint(self._at).report, daemon.output)

    async def _ask(self, daemon: Daemon) -> None:
        """Send the requests that lead to the crash, and wait until the daemon has died."""
        client = Client(daemon)
        try:
            await self._upload(client)
            if self._then == "delete":
                await client.ask("DELETE", "/v1/avatar")
            elif self._then == "replace":
                await self._upload(client)
        except (ResponseNeverReceived, ResponseFailed, ConnectionRefusedError):
            pass  # It died before it could answer.
        for _ in range(600):
            if not await daemon.runs():
                break
            await deferLater(reactor, 0.05)
        else:
            raise AssertionError("it was not reached")
        await daemon.kill()

    async def _upload(self, client: Client) -> None:
        status, answer = await client.upload(photos.jpeg(400, 300))
        self._case.assertEqual(status, 201)
        self.accepted = answer["id"]

    async def _assert_all_is_well(self) -> None:
        """
        The accepted upload arrives.  Then a further one takes its place, and in the end
        there is nothing but what is selected, besides an original that was never
        accepted, which expires by its age.
        """
        daemon = await self._scene.daemon(**QUICK)
        client = Client(daemon)
        if self.accepted is not None and self._then != "delete":
            # Another one whose answer never came may have taken its place.
            late = ("replaced",) if self._then == "replace" else ()
            await client.until(self.accepted, "ready", *late)
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

    async def all_of(
        self, steps: Iterable[str], *, then: str = "nothing", queue: str = "memory"
    ) -> None:
        first, *_ = steps = list(steps)
        points = dict.fromkeys([(first, "before"), *itertools.product(steps, MOMENTS)])
        crashes = [Crash(self, step, moment, then=then, queue=queue) for step, moment in points]
        running = DeferredSemaphore(AT_ONE_TIME)
        await gatherResults(
            [running.run(Deferred.fromCoroutine, crash.run()) for crash in crashes],
            consumeErrors=True,
        )

    async def test_a_crash_around_accepting_an_upload(self) -> None:
        """A daemon that is killed around any step of accepting an upload loses nothing."""
        await self.all_of(INTAKE)

    async def test_a_crash_around_a_job(self) -> None:
        """A daemon that is killed around any step of a job loses nothing."""
        await self.all_of(WORKER)

    async def test_a_crash_around_applying_a_result(self) -> None:
        """A daemon that is killed around any step of applying a result loses nothing."""
        await self.all_of(RESULT)

    async def test_a_crash_around_a_deletion(self) -> None:
        """A daemon that is killed around any step of a deletion still deletes everything."""
        await self.all_of(DELETION, then="delete")

    async def test_a_crash_around_a_replacement(self) -> None:
        """A daemon that is killed around any step of a replacement loses nothing."""
        await self.all_of(REPLACEMENT, then="replace")

    async def test_a_crash_with_queues_in_the_database(self) -> None:
        """With queues in the database, a daemon that is killed around a job loses nothing."""
        await self.all_of(ON_THE_DATABASE, queue="database")

"""
A process that is killed before or after any step of an upload: nothing is lost, and
nothing stays that should not.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from tests.integration import photos
from tests.integration.client import Client
from tests.integration.test_pipeline import PipelineCase, files_in

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

QUICK = {"queue__visibility_timeout": 2, "uploads__wait": 0}


def point(step: str, moment: str) -> str:
    name, _, number = step.rpartition(" ")
    if number.isdigit():
        return f"{name}:{moment}:{number}"
    return f"{step}:{moment}"


class CrashTests(PipelineCase):
    """
    A daemon that dies at a crash point, and is started again without it.

    :ivar accepted: the upload that was answered with 201, if one was.
    """

    accepted: str | None = None

    async def crash(self, at: str, *, delete: bool) -> None:
        """Let an upload, or the deletion of its avatar, run into a crash point."""
        self.environ = {"FXPROFILE_CRASH_AT": at}
        try:
            daemon = await self.daemon(**{**QUICK, "uploads__wait": 20 if delete else 0})
        except RuntimeError:
            return  # Queues are received from as soon as it starts.
        finally:
            self.environ = {}
        client = Client(daemon)
        try:
            status, answer = await client.upload(photos.jpeg(400, 300))
            self.assertEqual(status, 201)
            self.accepted = answer["id"]
            if delete:
                await client.ask("DELETE", "/v1/avatar")
        except (ResponseNeverReceived, ResponseFailed, ConnectionRefusedError):
            pass  # It died before it could answer.
        for _ in range(600):
            if not await daemon.runs():
                break
            await deferLater(reactor, 0.05)
        else:
            self.fail(f"{at} was not reached")
        await daemon.kill()

    async def assert_all_is_well(self, *, delete: bool) -> None:
        """
        The accepted upload arrives.  Then a further one takes its place, and in the end
        there is nothing but what is selected, besides an original that was never
        accepted, which expires by its age.
        """
        daemon = await self.daemon(**QUICK)
        client = Client(daemon)
        if self.accepted is not None and not delete:
            await client.until(self.accepted, "ready")
        status, answer = await client.upload(photos.jpeg(300, 300))
        self.assertEqual(status, 201)
        await client.until(answer["id"], "ready")
        _, avatar = await client.ask("GET", "/v1/avatar")
        self.assertEqual(avatar["id"], answer["id"])
        await self.assert_sizes(client, avatar["url"], (200, 200), (100, 100), (300, 300))
        kept = {f"fxprofile-public/a/{answer['id']}{s}" for s in ("", "_large", "_small")}

        def only_the_last() -> bool:
            left = set(files_in(self.directory))
            if self.accepted is None:
                left = {name for name in left if not name.startswith("fxprofile-private/")}
            return left == kept

        await self.until(only_the_last, "only the last avatar is there")
        await daemon.stop()


def _add_test(step: str, moment: str, *, delete: bool) -> None:
    async def test(self: CrashTests) -> None:
        await self.crash(point(step, moment), delete=delete)
        await self.assert_all_is_well(delete=delete)

    what = "deletion" if delete else "upload"
    test.__doc__ = f"A daemon killed {moment} {step} loses no {what}, and leaves nothing behind."
    name = step.replace(".", "_").replace(" ", "_")
    setattr(CrashTests, f"test_{what}_{moment}_{name}", test)


for _moment in ("before", "after"):
    for _step in (*INTAKE, *WORKER, *RESULT):
        _add_test(_step, _moment, delete=False)
    for _step in DELETION:
        _add_test(_step, _moment, delete=True)

"""``fxprofile-admin dead``."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.dead import DeadLetters
from fxprofile.admin.shared.tools import Tools
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Status, Variant
from fxprofile.model.keys import VARIANTS, new_id, private_key
from fxprofile.model.messages import Job, Op, Result, ResultStatus
from fxprofile.model.ports import IQueue
from tests.admin.support import AdminCase

UID = "a" * 32


def encoded(avatar_id: str, op: Op = Op.CRUNCH) -> str:
    """Return a job as it is on a queue."""
    return Job(op=op, id=avatar_id).encode(1_700_000_000)


async def bodies(queue: IQueue) -> list[str]:
    """Receive the bodies of the messages on a queue."""
    return [message.body for message in await queue.receive(max_messages=10, wait=0)]


class DeadTests(AdminCase):
    """``dead`` on queues in the database."""

    async def failed_upload(self, tools: Tools) -> str:
        """Make an upload whose job is a dead letter and whose row has failed."""
        avatar_id = new_id()
        await tools.private_bucket.put(
            key=private_key(avatar_id),
            body=BytesBody(b"an image"),
            length=8,
            content_type="application/octet-stream",
        )
        await tools.store.accept(avatar_id=avatar_id, uid=UID, now=1_700_000_000)
        await tools.store.failed(avatar_id=avatar_id, reason="dead", now=1_700_000_001)
        await tools.needed_queue("dead").send(body=encoded(avatar_id))
        return avatar_id

    async def letters(self) -> list[dict[str, Any]]:
        """Return the dead letters that the list shows."""
        return list((await self.admin("dead", "list", "--json")).json["letters"])

    async def test_without_dead_letters_the_commands_say_so(self) -> None:
        """Without dead letters, list and redrive print that there are none."""
        await self.admin("migrate")
        self.assertIn("no dead letters", (await self.admin("dead", "list")).output)
        self.assertEqual(await self.letters(), [])
        self.assertIn("no dead letters", (await self.admin("dead", "redrive", "--all")).output)

    async def test_a_dead_letter_is_listed_with_its_row_and_original(self) -> None:
        """
        The list shows job, avatar, row and original of each dead letter, and escapes its
        body.
        """
        async with self.service() as tools:
            dead = tools.needed_queue("dead")
            failed = await self.failed_upload(tools)
            gone = new_id()
            await dead.send(body=encoded(gone, Op.DELETE))
            await dead.send(body="\x1b[2Jgarbage")
        one, two, three = await self.letters()
        self.assertEqual(
            (one["op"], one["avatar"], one["row"], one["error"], one["original"]),
            ("crunch", failed, "failed", "dead", True),
        )
        self.assertIn("crunched again", one["prospect"])
        self.assertEqual(
            (two["op"], two["avatar"], two["row"], two["original"]), ("delete", gone, None, False)
        )
        self.assertEqual((three["op"], three["avatar"], three["row"]), (None, None, None))
        self.assertEqual(three["body"], "\x1b[2Jgarbage")
        text = (await self.admin("dead", "list")).output
        self.assertEqual(text.splitlines()[1].split()[-3:], [failed, "failed", "there"])
        self.assertEqual(text.splitlines()[2].split()[-3:], [gone, "gone", "gone"])
        self.assertIn("malformed  \\x1b[2Jgarbage", text)
        self.assertNotIn("\x1b", text)

    async def test_showing_a_dead_letter_does_not_receive_it(self) -> None:
        """Listing and showing neither hide a dead letter nor raise its receive count."""
        async with self.service() as tools:
            await self.failed_upload(tools)
            before = await self.letters()
            await self.admin("dead", "show", before[0]["letter"])
            (message,) = await tools.needed_queue("dead").receive(max_messages=10, wait=0)
            self.assertEqual(message.receive_count, 1)

    async def test_the_list_is_limited(self) -> None:
        """The list holds at most --limit dead letters."""
        async with self.service() as tools:
            for _ in range(5):
                await tools.needed_queue("dead").send(body="x")
        ran = await self.admin("dead", "list", "--limit=3", "--json")
        self.assertEqual(len(ran.json["letters"]), 3)

    async def test_a_dead_letter_is_shown_by_its_id_or_its_avatar(self) -> None:
        """One dead letter is shown whole, found by its own id or by that of its avatar."""
        async with self.service() as tools:
            failed = await self.failed_upload(tools)
        about = (await self.admin("dead", "show", failed, "--json")).json
        self.assertEqual(about["body"], encoded(failed))
        text = (await self.admin("dead", "show", about["letter"])).output
        self.assertIn(failed, text)
        self.assertIn("crunched again", text)
        self.assertIn("no dead letter 4711", await self.error("dead", "show", "4711"))

    async def test_a_redriven_job_can_make_its_row_ready(self) -> None:
        """A redriven job is on its queue again, and its result makes the failed row ready."""
        async with self.service() as tools:
            failed = await self.failed_upload(tools)
            other = await self.failed_upload(tools)
            ran = await self.admin("dead", "redrive", failed)
            self.assertIn("redriven", ran.output)
            self.assertEqual([about["avatar"] for about in await self.letters()], [other])
            (body,) = await bodies(tools.jobs_queue)
            self.assertEqual(Job.decode(body), Job(op=Op.CRUNCH, id=failed))
            variant = Variant(width=1, height=1, bytes=70)
            await tools.selection.apply(
                Result(
                    id=failed, status=ResultStatus.READY, variants=dict.fromkeys(VARIANTS, variant)
                )
            )
            avatar = await tools.store.avatar(avatar_id=failed)
            self.assertEqual(avatar.status, Status.READY)

    async def test_redriving_all_leaves_malformed_dead_letters(self) -> None:
        """With --all every job is sent again; a malformed dead letter stays and is reported."""
        async with self.service() as tools:
            ids = [await self.failed_upload(tools) for _ in range(3)]
            await tools.needed_queue("dead").send(body="garbage")
            ran = await self.admin("dead", "redrive", "--all", "--json")
            outcomes = [about["outcome"] for about in ran.json["letters"]]
            self.assertEqual(outcomes, ["redriven"] * 3 + ["left: malformed"])
            sent = await bodies(tools.jobs_queue)
            self.assertEqual(sorted(Job.decode(body).id for body in sent), sorted(ids))
        self.assertEqual([about["body"] for about in await self.letters()], ["garbage"])

    async def test_redriving_a_malformed_dead_letter_is_refused(self) -> None:
        """Redriving a malformed dead letter leaves it, and the status is 1."""
        async with self.service() as tools:
            await tools.needed_queue("dead").send(body="garbage")
        (letter,) = await self.letters()
        ran = await self.admin("dead", "redrive", letter["letter"], status=1)
        self.assertIn("left: malformed", ran.output)
        self.assertEqual(len(await self.letters()), 1)

    async def test_an_unknown_id_is_an_error_and_the_others_are_redriven(self) -> None:
        """An id that is not found is named on the standard error; the others are redriven."""
        async with self.service() as tools:
            failed = await self.failed_upload(tools)
        ran = await self.admin("dead", "redrive", failed, "4711", status=1)
        self.assertIn("no dead letter 4711", ran.errors)
        self.assertEqual(await self.letters(), [])

    async def test_either_ids_or_all_must_be_given(self) -> None:
        """Neither ids nor --all, and both together, are usage errors."""
        for name in ("redrive", "drop"):
            for arguments in ([], ["--all", "4711"]):
                ran = await self.admin("dead", name, *arguments, status=2)
                self.assertIn("--all", ran.errors)

    async def test_dead_letters_are_dropped_only_after_confirmation(self) -> None:
        """Dead letters are dropped after confirmation or with --yes, and not otherwise."""
        async with self.service() as tools:
            failed = await self.failed_upload(tools)
            await self.failed_upload(tools)
        for answers in ("n\n", ""):
            ran = await self.admin("dead", "drop", failed, answers=answers, status=1)
            self.assertIn("Aborted", ran.errors)
            self.assertEqual(len(await self.letters()), 2)
        await self.admin("dead", "drop", failed, "--json", status=2)
        await self.admin("dead", "drop", failed, answers="y\n")
        self.assertEqual(len(await self.letters()), 1)
        await self.admin("dead", "drop", "--all", "--yes")
        self.assertEqual(await self.letters(), [])
        async with self.service() as tools:
            self.assertEqual(await bodies(tools.jobs_queue), [])


class OtherQueuesTests(AdminCase):
    """``dead --queue``."""

    settings: ClassVar = {"queue.events_url": "events"}

    async def test_dead_results_are_listed_and_redriven(self) -> None:
        """Dead results are listed, and a redriven one is on the results queue again."""
        result = Result(id=new_id(), status=ResultStatus.DELETED)
        async with self.service() as tools:
            queue: Any = tools.results_queue
            await queue.dead.send(body=result.encode())
            await queue.dead.send(body="garbage")
            ran = await self.admin("queues", "--json")
            waiting = {row["name"]: row["waiting"] for row in ran.json["queues"]}
            self.assertEqual((waiting["results-dead"], waiting["dead"]), (2, 0))
            ran = await self.admin("dead", "list", "--queue=results", "--json")
            self.assertEqual(
                [(about["op"], about["avatar"]) for about in ran.json["letters"]],
                [("deleted", result.id), (None, None)],
            )
            await self.admin("dead", "redrive", "--queue=results", "--all")
            self.assertEqual(await bodies(queue), [result.encode()])
            await self.admin("dead", "drop", "--queue=results", "--all", "--yes")
            self.assertEqual((await queue.dead.depth()).visible, 0)

    async def test_dead_events_are_redriven_whatever_they_hold(self) -> None:
        """A dead account event is redriven with its body unchanged."""
        async with self.service() as tools:
            queue: Any = tools.needed_queue("events")
            await queue.dead.send(body="anything")
            await self.admin("dead", "redrive", "--queue=events", "--all")
            self.assertEqual(await bodies(queue), ["anything"])

    async def test_a_queue_that_is_not_configured_is_an_error(self) -> None:
        """The dead letters of a queue that is not configured are a wrong setting."""
        await self.admin("migrate")
        line = await self.error(
            "dead", "list", "--queue=events", "--set=queue.events_url=", status=2
        )
        self.assertIn("queue.events_url", line)


class ReceivedDeadLettersTests(SynchronousTestCase):
    """Dead letters of a queue that can only be received from."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.jobs = MemoryQueue("jobs", 60, 5, self.clock)
        self.dead = MemoryQueue("dead", 60, None, self.clock)
        self.ids = [new_id() for _ in range(23)]
        for avatar_id in self.ids:
            self.run_now(self.dead.send(body=encoded(avatar_id)))
        self.letters = DeadLetters("jobs", self.jobs, self.dead, self.clock)

    def run_now(self, work: Any) -> Any:
        """Return the result of work that may wait for messages."""
        outcome = Deferred.fromCoroutine(work)
        for _ in range(100):
            if outcome.called:
                break
            self.clock.advance(0.1)
        return self.successResultOf(outcome)

    def every(self) -> list[Any]:
        """Return all dead letters."""
        found: list[Any] = []
        while some := self.run_now(self.letters.more()):
            found += some
        return found

    def test_each_dead_letter_is_hidden_and_then_released(self) -> None:
        """Every dead letter is returned once, is hidden meanwhile, and is released at the end."""
        found = self.every()
        self.assertEqual([letter.avatar_id for letter in found], self.ids)
        self.assertEqual(self.run_now(self.dead.depth()).in_flight, 23)
        self.run_now(self.letters.close())
        self.assertEqual(self.run_now(self.dead.depth()).visible, 23)

    def test_a_redriven_job_is_sent_and_the_others_are_released(self) -> None:
        """A redriven job is sent and its dead letter removed; the others are released."""
        letter = self.every()[7]
        self.assertTrue(self.run_now(self.letters.redrive(letter)))
        self.run_now(self.letters.close())
        self.assertEqual(self.run_now(self.dead.depth()).visible, 22)
        (job,) = self.run_now(self.jobs.receive(max_messages=10, wait=0))
        self.assertEqual(Job.decode(job.body).id, self.ids[7])

    def test_a_dropped_dead_letter_is_removed_and_not_sent(self) -> None:
        """A dropped dead letter is removed, and nothing is sent."""
        for letter in self.every():
            self.run_now(self.letters.drop(letter))
        self.run_now(self.letters.close())
        self.assertEqual(self.run_now(self.dead.depth()).visible, 0)
        self.assertEqual(self.run_now(self.jobs.depth()).visible, 0)

    def test_a_dead_letter_that_comes_back_is_returned_once(self) -> None:
        """
        A dead letter that is received again after its visibility timeout is not returned
        twice.
        """
        found = [*self.run_now(self.letters.more())]
        self.clock.advance(61)
        while some := self.run_now(self.letters.more()):
            found += some
        self.assertEqual(len({letter.message.message_id for letter in found}), len(found))
        self.run_now(self.letters.close())
        self.assertEqual(self.run_now(self.dead.depth()).visible, 23)

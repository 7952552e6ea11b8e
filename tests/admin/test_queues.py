"""``fxprofile-admin queues``."""

from __future__ import annotations

from tests.admin.support import AdminCase


class QueuesTests(AdminCase):
    """``queues`` on queues in the database."""

    async def test_each_queue_is_shown_with_its_depth_and_age(self) -> None:
        """Each queue has waiting and in-flight messages and the age of the oldest."""
        async with self.service() as tools:
            jobs = tools.jobs_queue
            for _ in range(3):
                await jobs.send(body="{}")
            await jobs.receive(max_messages=1, wait=0)
            await tools.results_queue.send(body="{}")
        ran = await self.admin("queues", "--json")
        rows = {row.pop("name"): row for row in ran.json["queues"]}
        self.assertEqual(list(rows), ["jobs", "results", "results-dead", "dead"])
        self.assertEqual((rows["jobs"]["waiting"], rows["jobs"]["in_flight"]), (2, 1))
        self.assertEqual((rows["results"]["waiting"], rows["results"]["in_flight"]), (1, 0))
        self.assertGreaterEqual(rows["jobs"]["oldest_seconds"], 0)
        self.assertIsNone(rows["dead"]["oldest_seconds"])
        lines = (await self.admin("queues")).output.splitlines()
        self.assertEqual(lines[0].split(), ["QUEUE", "WAITING", "IN", "FLIGHT", "OLDEST"])
        self.assertEqual(lines[1].split()[:3], ["jobs", "2", "1"])
        self.assertEqual(lines[4].split(), ["dead", "0", "0", "-"])

    async def test_configured_optional_queues_are_shown(self) -> None:
        """The events queue and its dead letters are shown if the queue is configured."""
        ran = await self.admin("migrate")
        ran = await self.admin("queues", "--json", "--set=queue.events_url=http://x/events")
        self.assertEqual(
            [row["name"] for row in ran.json["queues"]],
            ["jobs", "results", "results-dead", "dead", "events", "events-dead"],
        )

    async def test_queues_in_memory_are_out_of_reach(self) -> None:
        """With queues in memory, one line says so, and only the events queue is shown."""
        await self.admin("migrate")
        memory = ("--set=queue.driver=memory", "--set=queue.events_url=http://x/events")
        ran = await self.admin("queues", *memory)
        *_, note = lines = ran.output.splitlines()
        self.assertEqual([line.split()[0] for line in lines[1:3]], ["events", "events-dead"])
        self.assertTrue(note.startswith("queue.driver is memory"), note)
        for command in (("dead", "list"), ("dead", "redrive", "--all")):
            line = await self.error(*command, memory[0], status=2)
            self.assertIn("queue.driver is memory", line)

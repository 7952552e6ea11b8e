"""What an upload costs, in counts that are the same on every machine."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.support.costs import Costs, costs_of


class CostTests(TestCase):
    """
    Uploads that replace an avatar, on files, SQLite and queues in memory.

    ``docs/performance.md`` lists what the counts consist of.
    """

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    async def test_an_upload_of_one_piece(self) -> None:
        """An upload of at most 64 KiB takes 3 transactions, 10 syncs and 11 calls in threads."""
        photo = b"\xff\xd8\xff" + bytes(47_000)
        costs = await costs_of(reactor, self.directory, photo, 3, self.patch)
        self.assertEqual(costs, [Costs(transactions=3, syncs=10, hops=11)] * 3)

    async def test_a_larger_upload(self) -> None:
        """Each further 64 KiB of an upload take one call in a thread."""
        photo = b"\xff\xd8\xff" + bytes(4 * 65536 - 3)
        costs = await costs_of(reactor, self.directory, photo, 3, self.patch)
        self.assertEqual(costs, [Costs(transactions=3, syncs=10, hops=14)] * 3)

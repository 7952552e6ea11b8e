"""What an upload costs, in counts that are the same on every machine."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.integration.cloud import ENVIRON, Cloud
from tests.support.aws_costs import CountedAwsUploads
from tests.support.costs import Costs, costs_of
from tests.support.servers import moto


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

    async def test_calls_to_s3_and_sqs(self) -> None:
        """An upload takes 16 calls to S3 and SQS, besides those that receive messages."""
        self.patch(os, "environ", {**os.environ, **ENVIRON})
        uploads = CountedAwsUploads(reactor, self.directory, Cloud(moto.shared.reset()))
        await uploads.start()
        self.addCleanup(uploads.stop)
        photo = b"\xff\xd8\xff" + bytes(47_000)
        await uploads.upload(photo)
        for _ in range(2):
            uploads.calls.clear()
            await uploads.upload(photo)
            expected = {
                "PutObject": 4,
                "GetObject": 1,
                "DeleteObject": 2,
                "DeleteObjects": 1,
                "SendMessageBatch": 4,
                "DeleteMessageBatch": 4,
            }
            self.assertEqual(uploads.calls, Counter(expected))

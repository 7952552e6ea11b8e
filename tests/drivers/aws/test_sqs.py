"""
Tests of the SQS queue against moto.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.sqs import SqsQueue
from fxprofile.model.keys import new_id
from tests.contracts.queue import QueueContract
from tests.drivers.aws.support import make_client
from tests.support.servers import moto


class SqsQueueContractTests(QueueContract, TestCase):
    visibility = 2
    undoes_receives = False

    def setUp(self) -> None:
        self.client = make_client(reactor)
        self.addCleanup(self.client.stopService)
        self.sqs = AwsService(self.client, "sqs", moto.shared.url)

    async def make_queue(self, **attributes: str) -> Any:
        dead_url = await self.create(f"dead-{new_id()}")
        dead = await self.sqs.call(
            "GetQueueAttributes", {"QueueUrl": dead_url, "AttributeNames": ["QueueArn"]}
        )
        redrive = {
            "deadLetterTargetArn": dead.members["Attributes"]["QueueArn"],
            "maxReceiveCount": self.max_receives,
        }
        url = await self.create(f"queue-{new_id()}", RedrivePolicy=json.dumps(redrive))
        queue = self.open(url)
        queue.dead = self.open(dead_url)
        return queue

    async def create(self, name: str, **attributes: str) -> str:
        answer = await self.sqs.call("CreateQueue", {"QueueName": name, "Attributes": attributes})
        return answer.members["QueueUrl"]

    def open(self, url: str) -> SqsQueue:
        queue = SqsQueue(self.sqs, name="test", url=url, visibility_timeout=self.visibility)
        queue.startService()
        self.addCleanup(queue.stopService)
        return queue

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds + 0.1)

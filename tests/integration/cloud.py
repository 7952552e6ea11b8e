"""Buckets and queues on an AWS server, and the settings of daemons that use them."""

from __future__ import annotations

import json

import boto3

from tests.support.servers.moto import ACCESS_KEY, SECRET_KEY

BUCKETS = ("fxprofile-private", "fxprofile-public")
QUEUES = ("jobs", "results", "dead", "results_dead", "events", "updates")

#: The environment of a daemon.
ENVIRON = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Cloud:
    """
    Buckets and queues, made when this is.

    :param url: of the AWS server.
    :param prefix: of the names of the queues.
    :param max_receives: of a job, before it is dead-lettered.
    :param visibility: visibility timeout of a job, in seconds.
    :ivar urls: of the queues, by name.
    """

    def __init__(
        self, url: str, *, prefix: str = "", max_receives: int = 5, visibility: int = 4
    ) -> None:
        self.url = url
        self.visibility = visibility
        self._prefix = prefix
        self.keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        session = boto3.Session(region_name="us-east-1", **self.keys)
        self.s3 = session.client("s3", endpoint_url=url)
        self.sqs = session.client("sqs", endpoint_url=url)
        for bucket in BUCKETS:
            self.s3.create_bucket(Bucket=bucket)
        self.urls = {name: self._create_queue(name) for name in QUEUES}
        self._redrive("jobs", "dead", max_receives)
        self._redrive("results", "results_dead", 10)
        self.sqs.set_queue_attributes(
            QueueUrl=self.urls["jobs"], Attributes={"VisibilityTimeout": str(visibility)}
        )

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a daemon."""
        return {
            "storage.driver": "s3",
            "queue.driver": "sqs",
            "queue.visibility_timeout": self.visibility,
            "aws.endpoint_url": self.url,
            **{f"queue.{name}_url": url for name, url in self.urls.items()},
        }

    def _create_queue(self, name: str) -> str:
        known_as = {"dead": "jobs-dead", "results_dead": "results-dead"}.get(name, name)
        return self.sqs.create_queue(QueueName=self._prefix + known_as)["QueueUrl"]

    def _redrive(self, name: str, dead: str, times: int) -> None:
        found = self.sqs.get_queue_attributes(QueueUrl=self.urls[dead], AttributeNames=["QueueArn"])
        policy = {
            "deadLetterTargetArn": found["Attributes"]["QueueArn"],
            "maxReceiveCount": times,
        }
        self.sqs.set_queue_attributes(
            QueueUrl=self.urls[name], Attributes={"RedrivePolicy": json.dumps(policy)}
        )

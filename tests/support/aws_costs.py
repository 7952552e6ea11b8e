"""What an upload costs on S3 and SQS: calls, by operation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from fxprofile.drivers.aws.client.client import AwsResponse, AwsService
from tests.integration.cloud import Cloud
from tests.support.costs import CountedUploads


@attrs.define(eq=False, slots=False)
class CountingService(AwsService):
    """A service that counts its calls, except for receives."""

    counts: Counter[str] = attrs.field(factory=Counter, kw_only=True)

    async def call(self, operation: str, parameters: Any, **rest: Any) -> AwsResponse:
        if operation != "ReceiveMessage":
            self.counts[operation] += 1
        return await super().call(operation, parameters, **rest)


class CountedAwsUploads(CountedUploads):
    """
    Uploads of one user, by a web process and a worker in one.

    :ivar calls: how many calls of each operation were made, of both roles.
    """

    def __init__(self, reactor: Any, directory: Path, cloud: Cloud) -> None:
        sections: dict[str, dict[str, object]] = {}
        for name, value in cloud.settings.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        super().__init__(reactor, directory, **sections)
        self.calls: Counter[str] = Counter()
        drivers: Any = self._services
        for driver in (
            *(drivers.private_bucket, drivers.public_bucket),
            *(drivers.jobs_queue, drivers.results_queue),
        ):
            one = driver._service
            driver._service = CountingService(
                one.client, one.name, one.endpoint_url, one._region, counts=self.calls
            )

    def _is_idle(self) -> bool:
        services = self._services
        handled = not (services.jobs_poller._in_flight or services.results_poller._in_flight)
        return handled and not self._pending()

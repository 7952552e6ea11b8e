"""
AWS services, and what they share in a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from botocore.exceptions import BotoCoreError
from treq.client import HTTPClient

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.call import Answer, Call, Stream
from fxprofile.drivers.aws.credentials import CredentialChain
from fxprofile.drivers.aws.errors import AwsError
from fxprofile.drivers.aws.flight import Flight
from fxprofile.drivers.aws.retries import Backoff, Budget
from fxprofile.drivers.aws.transport import READ_TIMEOUT, Transport
from fxprofile.drivers.aws.wire import Endpoint, Wire, load_in_thread

#: Tries of one call, the first included.
MAX_ATTEMPTS: Final = 4

Addressing = Literal["auto", "path", "virtual"]


class AwsClient:
    """
    What all services of a process share: keys, connections, and the budget of retries.

    :param reactor: gives the time and connects.
    :param threads: where credentials are found and descriptions are read.
    :param region: of the services.
    :param http: in place of our own connections.
    :param credentials: in place of the standard chain.
    """

    def __init__(
        self,
        reactor: Any,
        threads: Threads,
        region: str,
        *,
        http: HTTPClient | None = None,
        credentials: CredentialChain | None = None,
        backoff: Backoff | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.clock = reactor
        self.region = region
        self.transport = Transport(reactor, http)
        self.credentials = credentials or CredentialChain(threads, reactor, region)
        self.backoff = backoff or Backoff()
        self.budget = Budget()
        self.max_attempts = max_attempts
        #: Seconds that the clock of AWS is ahead of ours.
        self.skew = 0.0
        self._threads = threads
        self._wires: dict[str, Wire] = {}
        self._loading: dict[str, Flight[Wire]] = {}
        self._users = 0

    async def wire(self, name: str) -> Wire:
        """
        The description of a service.

        :raises AwsError: if there is none.
        """
        if name not in self._wires:
            flight = self._loading.setdefault(name, Flight())
            self._wires[name] = await flight.join(lambda: self._load(name))
        return self._wires[name]

    async def _load(self, name: str) -> Wire:
        try:
            return await self._threads.run(load_in_thread, name)
        except (BotoCoreError, OSError, KeyError, ValueError) as error:
            text = f"{name}: botocore has no description: {error!r:.200}"
            raise AwsError(text, code="NoDescription") from error

    def service(
        self,
        name: str,
        *,
        endpoint_url: str | None = None,
        addressing: Addressing = "auto",
        region: str | None = None,
    ) -> AwsService:
        """
        A service.

        :param name: ``s3`` or ``sqs``.
        :param endpoint_url: in place of AWS's own.
        :param addressing: whether S3's buckets are in the path or in the host.
        :param region: in place of that of the client.
        """
        return AwsService(self, name, endpoint_url, addressing, region or self.region)

    def acquire(self) -> None:
        """Say that somebody has begun to use this."""
        self._users += 1

    async def release(self) -> None:
        """Say that somebody uses this no longer; with the last one the connections go."""
        self._users -= 1
        if self._users <= 0:
            await self.transport.close()


class AwsService:
    """One service of AWS; see :meth:`AwsClient.service`."""

    def __init__(
        self,
        client: AwsClient,
        name: str,
        endpoint_url: str | None,
        addressing: Addressing,
        region: str,
    ) -> None:
        self.name = name
        self.endpoint_url = endpoint_url
        self.region = region
        self._client = client
        # The same rule as botocore has.
        self._path_style = addressing == "path" or (
            addressing == "auto" and endpoint_url is not None
        )
        self._regions: dict[str, str] = {}

    async def call(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        stream: Stream | None = None,
        streamed_answer: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = READ_TIMEOUT,
        max_attempts: int | None = None,
    ) -> Answer:
        """
        Call an operation.

        It is tried again, within a budget, on the errors that AWS documents as retryable and
        after a correction of the time, the keys or the region; but not once some of a stream
        is gone.

        :param operation: by AWS's name, as ``PutObject``.
        :param parameters: by AWS's names, without the stream.
        :param stream: the body.
        :param streamed_answer: whether the answer's body is wanted as it comes.
        :param headers: further headers.
        :param timeout: seconds in which the other side has to show a sign of life.
        :param max_attempts: in place of that of the client.
        :raises AwsError: if it failed.
        :raises Exception: whatever the stream raises.
        """
        call = Call(self._client, self, operation, parameters, stream, headers, timeout)
        return await call.run(streamed_answer, max_attempts or self._client.max_attempts)

    async def endpoint(self, bucket: str | None = None) -> Endpoint:
        """Where requests go that are about this bucket, or about none."""
        wire = await self._client.wire(self.name)
        return wire.endpoint(
            region=self._regions.get(bucket or "", self.region),
            url=self.endpoint_url,
            bucket=bucket,
            path_style=self._path_style,
        )

    def found_elsewhere(self, bucket: str, region: str) -> bool:
        """
        Remember the region of a bucket.

        :returns: whether this is news.
        """
        known = self._regions.get(bucket, self.region)
        self._regions[bucket] = region
        return region != known

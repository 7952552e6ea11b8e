"""
The AWS client and its services.
"""

from __future__ import annotations

from typing import Final, Literal

from botocore.exceptions import BotoCoreError
from botocore.retries.quota import RetryQuota
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.call import AwsResponse, ServiceCall
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.client.payload import StreamPayload
from fxprofile.drivers.aws.client.signing import CredentialChain
from fxprofile.drivers.aws.client.transport import READ_TIMEOUT, Transport
from fxprofile.drivers.aws.client.wire import Endpoint, Members, WireProtocol, load_protocol

#: Attempts of one call, the first included.
MAX_ATTEMPTS: Final = 4

#: Delays between attempts, and those after AWS has throttled the caller.
BACKOFF: Final = Backoff(first=0.1, cap=20.0)
THROTTLED_BACKOFF: Final = Backoff(first=1.0, cap=20.0)

Addressing = Literal["auto", "path", "virtual"]


class AwsClient(Service):
    """
    The state that all services of a process share: credentials, connections, retry quota.

    It works without being started; stopped, it closes its idle connections.

    :param reactor: gives the time, and connects.
    :param threads: where credentials are searched and service descriptions are read.
    :param region: of the services.
    :param user_agent: sent with every request.
    :param agent: in place of an agent with its own connections.
    :param credentials: in place of the standard chain.
    :param backoff: the delays between attempts.
    :param throttled_backoff: the delays after AWS has throttled the caller.
    :ivar quota: limits retries across all calls, so that AWS does not receive several times
        the load while everything fails.
    :ivar skew: seconds that AWS's clock is ahead of ours.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        threads: Threads,
        region: str,
        *,
        user_agent: str = "twisted-aws",
        agent: IAgent | None = None,
        credentials: CredentialChain | None = None,
        backoff: Backoff = BACKOFF,
        throttled_backoff: Backoff = THROTTLED_BACKOFF,
    ) -> None:
        self.clock = reactor
        self.region = region
        self.user_agent = user_agent
        self.transport = Transport(reactor, agent)
        self.credentials = credentials or CredentialChain(threads, reactor, region)
        self.backoff = backoff
        self.throttled_backoff = throttled_backoff
        self.quota = RetryQuota()
        self.skew = 0.0
        self._threads = threads
        self._protocols: dict[str, WireProtocol] = {}
        self._loading: SingleFlight[str, WireProtocol] = SingleFlight()

    async def protocol(self, name: str) -> WireProtocol:
        """
        Return the wire protocol of a service.

        :raises AwsError: if botocore has no description of it.
        """
        if name not in self._protocols:
            self._protocols[name] = await self._loading.join(name, lambda: self._load(name))
        return self._protocols[name]

    async def _load(self, name: str) -> WireProtocol:
        try:
            return await self._threads.run(load_protocol, name)
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
        Return a service.

        :param name: ``s3`` or ``sqs``.
        :param endpoint_url: in place of AWS's own.
        :param addressing: whether S3 buckets are in the path or in the host.
        :param region: in place of the client's.
        """
        return AwsService(self, name, endpoint_url, addressing, region or self.region)

    def stopService(self) -> Deferred[None]:
        """Close the idle connections."""
        super().stopService()
        return Deferred.fromCoroutine(self.transport.close())


class AwsService:
    """One AWS service; see :meth:`AwsClient.service`."""

    def __init__(
        self,
        client: AwsClient,
        name: str,
        endpoint_url: str | None,
        addressing: Addressing,
        region: str,
    ) -> None:
        self.client = client
        self.name = name
        self.endpoint_url = endpoint_url
        self.region = region
        # botocore has the same rule.
        self._path_style = addressing == "path" or (
            addressing == "auto" and endpoint_url is not None
        )
        self._bucket_regions: dict[str, str] = {}

    async def call(
        self,
        operation: str,
        parameters: Members,
        *,
        payload: StreamPayload | None = None,
        stream_response: bool = False,
        timeout: float = READ_TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> AwsResponse:
        """
        Call an operation.

        It is retried, within the quota, on the errors that AWS documents as retryable, and
        after the clock, the credentials or the region have been corrected.  It is not retried
        once a part of a streamed payload has been read.

        :param operation: AWS's name, such as ``PutObject``.
        :param parameters: by AWS's names, without a streamed payload.
        :param payload: the streamed body of the request.
        :param stream_response: whether the body of the response is returned unread.
        :param timeout: seconds without progress after which an attempt fails.
        :raises AwsError: if the call failed.
        :raises Exception: any error of the payload.
        """
        call = ServiceCall(self, operation, parameters, payload, timeout)
        return await call.run(stream_response, max_attempts)

    async def endpoint(self, bucket: str | None = None) -> Endpoint:
        """Return where requests go that concern this bucket, or none."""
        protocol = await self.client.protocol(self.name)
        return protocol.endpoint(
            region=self._bucket_regions.get(bucket or "", self.region),
            url=self.endpoint_url,
            bucket=bucket,
            path_style=self._path_style,
        )

    def set_bucket_region(self, bucket: str, region: str) -> bool:
        """
        Send later requests for a bucket to another region.

        :returns: whether this changed anything.
        """
        changed = region != self._bucket_regions.get(bucket, self.region)
        self._bucket_regions[bucket] = region
        return changed

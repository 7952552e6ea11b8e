"""
The AWS client, its services, and their calls: attempts, and the corrections and delays between
them.

Retries follow AWS's standard mode.  botocore's retry handler sleeps in the calling thread, so
only its lists of retryable errors and its quota are used.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cached_property
from math import inf
from typing import Final, Literal

import attrs
from botocore.awsrequest import AWSResponse
from botocore.exceptions import BotoCoreError
from botocore.retries.quota import RetryQuota
from botocore.retries.standard import (
    RetryContext,
    ThrottledRetryableChecker,
    TransientRetryableChecker,
)
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.errors import (
    AwsError,
    AwsMalformed,
    AwsRefused,
    AwsTimeout,
    AwsUnreachable,
)
from fxprofile.drivers.aws.client.payload import StreamPayload
from fxprofile.drivers.aws.client.signing import AccessKey, CredentialChain, sign
from fxprofile.drivers.aws.client.wire import Endpoint, Members, WireProtocol, load_protocol
from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.bodies import IterableBody
from fxprofile.http_client.connection import Deadlines
from fxprofile.http_client.errors import (
    DeadlineExceeded,
    EarlyResponse,
    HttpError,
    ResponseTooLong,
)
from fxprofile.http_client.response import Response

#: Connections to one endpoint: each download that a client reads slowly occupies one.
MAX_CONNECTIONS: Final = 1000

#: Seconds for a connection to be made.
CONNECT_TIMEOUT: Final = 5.0

#: Seconds without progress after which an attempt fails.
READ_TIMEOUT: Final = 30.0

#: Attempts of one call, the first included.
MAX_ATTEMPTS: Final = 4

#: Bytes of the longest response that is not streamed: ten messages of 1 MiB, and the XML or
#: JSON around them.
MAX_RESPONSE: Final = 32 << 20

#: Attempts of one call that may time out.  Each takes up to half a minute, and the caller must
#: receive an error before it gives up itself.
MAX_TIMEOUTS: Final = 2

#: Seconds that AWS's clock must differ from ours to explain a refusal.
MIN_SKEW: Final = 120

#: Retry quota that an attempt costs, and what a success on the first attempt earns.
RETRY_COST: Final = 5
TIMEOUT_COST: Final = 10
SUCCESS_REWARD: Final = 1

#: Errors of an access key that has expired or has been replaced.
STALE_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)

_throttled = ThrottledRetryableChecker()
_transient = TransientRetryableChecker()

_log = Logger()


Addressing = Literal["auto", "path", "virtual"]


def is_throttled(error: AwsError) -> bool:
    """Whether AWS reports that the caller sends too many requests."""
    return error.status == 429 or _throttled.is_retryable(_context(error))


def is_retryable(error: AwsError) -> bool:
    """Whether the same request may succeed later."""
    return (
        isinstance(error, AwsUnreachable)
        or is_throttled(error)
        or _transient.is_retryable(_context(error))
    )


def _context(error: AwsError) -> RetryContext:
    return RetryContext(
        attempt_number=1,
        parsed_response={"Error": {"Code": error.code}},
        http_response=AWSResponse(None, error.status, {}, None),
    )


@contextmanager
def _aws_errors() -> Iterator[None]:
    try:
        yield
    except EarlyResponse as error:
        raise AwsMalformed(str(error), code="EarlyResponse") from error
    except ResponseTooLong as error:
        raise AwsMalformed(str(error), code="TooLong") from error
    except DeadlineExceeded as error:
        raise AwsTimeout(str(error)) from error
    except HttpError as error:
        raise AwsUnreachable(str(error)) from error


@attrs.frozen
class RawResponse:
    """
    An HTTP response whose body has not been read.

    :ivar headers: with names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: Response


@attrs.frozen
class AwsResponse:
    """
    The response of a successful call.

    :ivar members: the result in the body, by AWS's names.
    :ivar headers: with names in lower case.
    :ivar body: of a streamed response; the caller closes it, and it raises HttpError.
    """

    members: Members
    headers: Mapping[str, str]
    body: Response | None = None


@attrs.define(eq=False, slots=False, repr=False)
class AwsClient(Service):
    """
    The state that all services of a process share: credentials, connections, retry quota.

    It works without being started; stopped, it closes its idle connections.

    :param clock: the reactor, which also connects.
    :param threads: where credentials are searched and service descriptions are read.
    :param region: of the services.
    :param user_agent: sent with every request.
    :param headers: returns further headers of a request, which are not signed.
    :ivar quota: limits retries across all calls, so that AWS does not receive several times
        the load while everything fails.
    :ivar skew: seconds that AWS's clock is ahead of ours.
    """

    #: Delays between attempts, and those after AWS has throttled the caller.
    backoff = Backoff(first=0.1, cap=20.0)
    throttled_backoff = Backoff(first=1.0, cap=20.0)

    clock: IReactorTime
    _threads: Threads
    region: str
    user_agent: str = "twisted-aws"
    headers: Callable[[], Mapping[str, str]] = dict
    quota: RetryQuota = attrs.field(factory=RetryQuota, init=False)
    skew: float = attrs.field(default=0.0, init=False)
    _protocols: dict[str, WireProtocol] = attrs.field(factory=dict, init=False)
    _loading: SingleFlight[str, WireProtocol] = attrs.field(factory=SingleFlight, init=False)

    @cached_property
    def agent(self) -> HttpAgent:
        """The connections of all services."""
        return HttpAgent(self.clock, max_connections=MAX_CONNECTIONS)

    @cached_property
    def credentials(self) -> CredentialChain:
        """The access key of all services."""
        return CredentialChain(self._threads, self.clock, self.region)

    async def protocol(self, name: str) -> WireProtocol:
        """Return the wire protocol of a service."""

        async def load() -> WireProtocol:
            return await self._threads.run(load_protocol, name)

        if name not in self._protocols:
            self._protocols[name] = await self._loading.join(name, load)
        return self._protocols[name]

    def set_clock(self, response: RawResponse) -> bool:
        """
        Sign later requests with the time of a response.

        :returns: whether it differs from the time that requests are signed with.
        """
        try:
            there = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return False
        skew = there - self.clock.seconds()
        if abs(skew - self.skew) < MIN_SKEW:
            return False
        self.skew = skew
        return True

    def stopService(self) -> Deferred[None]:
        """Close the idle connections."""
        super().stopService()
        return self.agent.stopService()


@attrs.define(eq=False, slots=False)
class AwsService:
    """
    One AWS service.

    :param name: ``s3`` or ``sqs``.
    :param endpoint_url: in place of AWS's own.
    :param region: in place of the client's.
    :param addressing: whether S3 buckets are in the path or in the host.
    """

    client: AwsClient
    name: str
    endpoint_url: str | None = None
    _region: str | None = None
    _addressing: Addressing = "auto"
    _bucket_regions: dict[str, str] = attrs.field(factory=dict, init=False)

    async def call(
        self,
        operation: str,
        parameters: Members,
        *,
        payload: StreamPayload | None = None,
        stream_response: bool = False,
        timeout: float = READ_TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
        budget: float = inf,
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
        :param timeout: seconds without progress after which an attempt fails; the body of a
            response that is not streamed may take as long.
        :param budget: seconds in which all attempts must end, except for the time that a
            streamed body takes.
        :raises AwsError: if the call failed.
        :raises Exception: any error of the payload.
        """
        ends = self.client.clock.seconds() + budget
        call = ServiceCall(self, operation, parameters, payload, stream_response, timeout, ends)
        return await call.run(max_attempts)

    @property
    def region(self) -> str:
        """The region of the service."""
        return self._region or self.client.region

    async def endpoint(self, bucket: str | None = None) -> Endpoint:
        """Return where requests go that concern this bucket, or none."""
        protocol = await self.client.protocol(self.name)
        # botocore has the same rule.
        automatic = self._addressing == "auto" and self.endpoint_url is not None
        return protocol.endpoint(
            region=self._bucket_regions.get(bucket or "", self.region),
            url=self.endpoint_url,
            bucket=bucket,
            path_style=automatic or self._addressing == "path",
        )

    def set_bucket_region(self, bucket: str, region: str) -> bool:
        """
        Send later requests for a bucket to another region.

        :returns: whether this changed anything.
        """
        changed = region != self._bucket_regions.get(bucket, self.region)
        self._bucket_regions[bucket] = region
        return changed


@attrs.define(eq=False, slots=False, repr=False)
class ServiceCall:
    """One call, from its first attempt to its last; see :meth:`AwsService.call`."""

    _service: AwsService
    _operation: str
    _parameters: Members
    _payload: StreamPayload | None
    _stream_response: bool
    _timeout: float
    _ends: float
    _attempt: int = attrs.field(default=0, init=False)
    _key: AccessKey | None = attrs.field(default=None, init=False)
    _response: RawResponse | None = attrs.field(default=None, init=False)
    _corrected: set[str] = attrs.field(factory=set, init=False)

    async def run(self, max_attempts: int) -> AwsResponse:
        """Return the response of the first successful attempt."""
        client = self._service.client
        cost = timeouts = 0
        while True:
            self._attempt += 1
            self._response = None
            try:
                response = await self._try()
            except (AwsRefused, AwsUnreachable, AwsMalformed) as problem:
                error = self._describe(problem)
                corrected = isinstance(error, AwsRefused) and self._correct(error)
                if self._payload is not None and self._payload.started:
                    # It cannot be sent again; the correction serves the next call.
                    raise error from problem
                if corrected:
                    continue
                timeouts += isinstance(error, AwsTimeout)
                cost = TIMEOUT_COST if isinstance(error, AwsUnreachable) else RETRY_COST
                if (
                    not is_retryable(error)
                    or self._attempt >= max_attempts
                    or timeouts >= MAX_TIMEOUTS
                    or not client.quota.acquire(cost)
                ):
                    raise error from problem
                backoff = client.throttled_backoff if is_throttled(error) else client.backoff
                delay = backoff.delay(self._attempt)
                if client.clock.seconds() + delay >= self._ends:
                    raise error from problem
                _log.info("{error}; retrying in {delay:.2f} s", error=error, delay=delay)
                await deferLater(client.clock, delay)
            else:
                client.quota.release(cost or SUCCESS_REWARD)
                return response

    async def _try(self) -> AwsResponse:
        client = self._service.client
        protocol = await client.protocol(self._service.name)
        endpoint = await self._service.endpoint(self._parameters.get("Bucket"))
        self._key = await client.credentials.get()
        started = client.clock.seconds()
        response = self._response = await self._send(protocol, endpoint, self._key)
        body = b""
        if not self._stream_response or response.status >= 300:
            body = await self._read(response)
        try:
            status, members = protocol.parse(
                self._operation, response.status, response.headers, body
            )
        except AwsMalformed:
            await response.body.aclose()
            raise
        _log.debug(
            "{call}: status {status} after {seconds:.3f} s, request {request}",
            call=self._name(),
            status=status,
            seconds=client.clock.seconds() - started,
            request=_request_id(response),
        )
        if status >= 300:
            error: Members = members.get("Error", {})
            code = str(error.get("Code") or status)
            raise AwsRefused(str(error.get("Message") or ""), code=code, status=status)
        body_left = response.body if self._stream_response else None
        return AwsResponse(members, response.headers, body_left)

    async def _send(
        self, protocol: WireProtocol, endpoint: Endpoint, key: AccessKey
    ) -> RawResponse:
        client, payload = self._service.client, self._payload
        try:
            request = protocol.request(
                self._operation, self._parameters, endpoint, client.user_agent
            )
        except BotoCoreError as error:
            raise AwsError(f"{self._name()}: {error}", code="InvalidParameters") from None
        if payload is not None:
            request.headers.update(payload.headers)
        sign_chunk = sign(
            request,
            key=key,
            service=endpoint.signing_name,
            region=endpoint.signing_region,
            seconds=client.clock.seconds() + client.skew,
            content_sha256=payload.content_sha256 if payload else None,
        )
        if payload is not None:
            payload.sign_chunk = sign_chunk
        left = max(0.0, self._ends - client.clock.seconds())
        patience = min(self._timeout, left)
        is_streamed = payload is not None or self._stream_response
        deadlines = Deadlines(
            connect=min(CONNECT_TIMEOUT, patience),
            head=patience,
            progress=self._timeout,
            total=inf if is_streamed else left,
        )
        headers = (*request.headers.items(), *client.headers().items())
        with _aws_errors():
            response = await client.agent.send(
                request.method.encode(),
                request.url.encode(),
                [(name.encode(), value.encode()) for name, value in headers],
                IterableBody(payload, payload.length) if payload else request.body,
                deadlines=deadlines,
                # Calls of every method are retried.
                idempotent=True,
            )
        received = {name.decode(): value.decode("latin-1") for name, value in response.raw_headers}
        return RawResponse(response.status, received, response)

    async def _read(self, response: RawResponse) -> bytes:
        try:
            with _aws_errors():
                return await response.body.read(MAX_RESPONSE, self._timeout)
        except AwsUnreachable:
            if response.status >= 300:
                # The status of an error is enough.
                return b""
            raise

    def _correct(self, error: AwsRefused) -> bool:
        """
        Correct what AWS refused: the region, the clock or the credentials.

        :returns: whether something was corrected for the first time in this call.
        """
        service, response, key = self._service, self._response, self._key
        if response is None or key is None:
            return False
        bucket = self._parameters.get("Bucket")
        region = response.headers.get("x-amz-bucket-region")
        if (
            bucket
            and region
            and response.status in (301, 307, 400)
            and service.set_bucket_region(bucket, region)
        ):
            correction = "region"
        elif response.status in (400, 401, 403) and service.client.set_clock(response):
            correction = "clock"
        # The response to a HEAD has no body with an error code.
        elif error.code in STALE_CREDENTIALS or error.code == "400":
            service.client.credentials.invalidate(key)
            correction = "credentials"
        else:
            return False
        if correction in self._corrected:
            return False
        self._corrected.add(correction)
        _log.info("{error}; corrected the {correction}", error=error, correction=correction)
        return True

    def _name(self) -> str:
        names = ("Bucket", "Key", "QueueUrl")
        resource = "/".join(self._parameters[name] for name in names if name in self._parameters)
        return f"{self._service.name}:{self._operation} {resource}".strip()

    def _describe(self, problem: AwsError) -> AwsError:
        """Return the error with the call, the attempt and the request ids in its text."""
        details = [f"attempt {self._attempt}"]
        if self._response is not None:
            request = f"request {_request_id(self._response)}"
            details = [f"status {self._response.status}", request, *details]
        # The text may be a proxy's page, or SQS's quotation of the request to be signed, which
        # contains the session token.
        text = str(problem)
        for secret in (self._key.secret_key, self._key.token) if self._key else ():
            text = text.replace(secret, "********") if secret else text
        text = " ".join(text.split())
        return type(problem)(
            f"{self._name()}: {problem.code}{': ' if text else ''}{text:.300} "
            f"({', '.join(details)})",
            code=problem.code,
            status=problem.status,
        )


def _request_id(response: RawResponse) -> str:
    """The ids by which AWS finds a request."""
    ids = [
        response.headers[name]
        for name in ("x-amzn-requestid", "x-amz-request-id", "x-amz-id-2")
        if name in response.headers
    ]
    return " ".join(ids) or "unknown"

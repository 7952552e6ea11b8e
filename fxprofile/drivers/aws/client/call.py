"""
One AWS call: its attempts, and the corrections and delays between them.

Retries follow AWS's standard mode.  botocore's retry handler sleeps in the calling thread, so
only its lists of retryable errors and its quota are used.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import BotoCoreError
from botocore.retries.standard import (
    RetryContext,
    ThrottledRetryableChecker,
    TransientRetryableChecker,
)
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fxprofile.deferreds.bodies import read_all
from fxprofile.drivers.aws.client.errors import (
    AwsError,
    AwsMalformed,
    AwsRefused,
    AwsTimeout,
    AwsUnreachable,
)
from fxprofile.drivers.aws.client.payload import BytesPayload, StreamPayload
from fxprofile.drivers.aws.client.signing import AccessKey, sign
from fxprofile.drivers.aws.client.transport import RawResponse, ResponseStream
from fxprofile.drivers.aws.client.wire import Endpoint, Members, WireProtocol

if TYPE_CHECKING:
    from fxprofile.drivers.aws.client.client import AwsService

#: Bytes of the longest response that is not streamed: ten messages of 1 MiB, and the XML or
#: JSON around them.
MAX_RESPONSE: Final = 32 << 20

#: How many times the idle timeout such a response may take in all, because one that arrives
#: byte by byte would never be idle.
RESPONSE_TIMEOUTS: Final = 2

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


@dataclass(frozen=True)
class AwsResponse:
    """
    The response of a successful call.

    :ivar members: the parsed result, by AWS's names.
    :ivar headers: with names in lower case.
    :ivar body: of a streamed response; the caller closes it.
    """

    members: Members
    headers: Mapping[str, str]
    body: ResponseStream | None = None


class ServiceCall:
    """One call, from its first attempt to its last."""

    def __init__(
        self,
        service: AwsService,
        operation: str,
        parameters: Members,
        payload: StreamPayload | None,
        timeout: float,
    ) -> None:
        self._service = service
        self._client = service.client
        self._operation = operation
        self._parameters = parameters
        self._payload = payload
        self._timeout = timeout
        self._attempt = 0
        self._timeouts = 0
        self._key: AccessKey | None = None
        self._corrected: set[str] = set()
        self._response: RawResponse | None = None

    async def run(self, stream_response: bool, max_attempts: int) -> AwsResponse:
        """See :meth:`fxprofile.drivers.aws.client.client.AwsService.call`."""
        client = self._client
        cost = 0
        while True:
            self._attempt += 1
            try:
                response = await self._try(stream_response)
            except AwsError as error:
                corrected = self._correct(error)
                if self._payload is not None and self._payload.started:
                    # It cannot be sent again; the correction serves the next call.
                    raise
                if corrected:
                    continue
                if not is_retryable(error) or self._attempt >= max_attempts:
                    raise
                cost = TIMEOUT_COST if isinstance(error, AwsUnreachable) else RETRY_COST
                if self._timeouts >= MAX_TIMEOUTS or not client.quota.acquire(cost):
                    raise
                backoff = client.throttled_backoff if is_throttled(error) else client.backoff
                delay = backoff.delay(self._attempt)
                _log.info("{error}; retrying in {delay:.2f} s", error=error, delay=delay)
                await deferLater(client.clock, delay)
            else:
                client.quota.release(cost or SUCCESS_REWARD)
                return response

    async def _try(self, stream_response: bool) -> AwsResponse:
        client = self._client
        self._response = None
        protocol = await client.protocol(self._service.name)
        endpoint = await self._service.endpoint(self._parameters.get("Bucket"))
        self._key = await client.credentials.get()
        started = client.clock.seconds()
        response = self._response = await self._send(protocol, endpoint, self._key)
        body = b""
        if not stream_response or response.status >= 300:
            body = await self._read(response)
        members: Members
        try:
            status, members = protocol.parse(
                self._operation, response.status, response.headers, body
            )
        except AwsMalformed as problem:
            if response.status < 300:
                await response.body.aclose()
                raise self._error(problem) from problem
            status, members = response.status, {}
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
            refusal = AwsRefused(str(error.get("Message") or ""), code=code, status=status)
            raise self._error(refusal)
        return AwsResponse(members, response.headers, response.body if stream_response else None)

    async def _send(
        self, protocol: WireProtocol, endpoint: Endpoint, key: AccessKey
    ) -> RawResponse:
        client = self._client
        try:
            request = protocol.request(
                self._operation, self._parameters, endpoint, client.user_agent
            )
        except BotoCoreError as error:
            raise AwsError(f"{self._name()}: {error}", code="InvalidParameters") from None
        for name, value in (self._payload.headers if self._payload else {}).items():
            request.headers[name] = value
        sign(
            request,
            key=key,
            service=endpoint.signing_name,
            region=endpoint.signing_region,
            seconds=client.clock.seconds() + client.skew,
            content_sha256=self._payload.content_sha256 if self._payload else None,
        )
        method, url, headers, body = _prepared(request)
        try:
            return await client.transport.send(
                method, url, headers, self._payload or BytesPayload(body), self._timeout
            )
        except (AwsUnreachable, AwsMalformed) as problem:
            raise self._error(problem) from problem

    async def _read(self, response: RawResponse) -> bytes:
        limit = RESPONSE_TIMEOUTS * self._timeout
        reading = Deferred.fromCoroutine(read_all(response.body, MAX_RESPONSE))
        problem: AwsError
        try:
            return await reading.addTimeout(limit, self._client.clock)
        except AwsUnreachable as error:
            problem = error
        except WaitTimeout:
            problem = AwsTimeout(f"no complete response within {limit:g} s")
        except OverflowError as error:
            raise self._error(AwsMalformed(str(error), code="TooLong")) from error
        if response.status >= 300:
            # The status of an error is enough.
            return b""
        raise self._error(problem) from problem

    def _correct(self, error: AwsError) -> bool:
        """
        Correct what AWS refused: the region, the clock or the credentials.

        :returns: whether something was corrected for the first time in this call.
        """
        response = self._response
        if response is None or not isinstance(error, AwsRefused):
            return False
        correction = self._find_correction(response, error)
        if correction is None or correction in self._corrected:
            return False
        self._corrected.add(correction)
        _log.info("{error}; corrected the {correction}", error=error, correction=correction)
        return True

    def _find_correction(self, response: RawResponse, error: AwsRefused) -> str | None:
        bucket = self._parameters.get("Bucket")
        region = response.headers.get("x-amz-bucket-region")
        if (
            bucket
            and region
            and response.status in (301, 307, 400)
            and self._service.set_bucket_region(bucket, region)
        ):
            return "region"
        if response.status in (400, 401, 403) and self._correct_clock(response):
            return "clock"
        # The response to a HEAD has no body with an error code.
        stale = error.code in STALE_CREDENTIALS or (error.code == "400" and response.status == 400)
        if stale and self._key is not None:
            self._client.credentials.invalidate(self._key)
            return "credentials"
        return None

    def _correct_clock(self, response: RawResponse) -> bool:
        try:
            there = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return False
        skew = there - self._client.clock.seconds()
        if abs(skew - self._client.skew) < MIN_SKEW:
            return False
        self._client.skew = skew
        return True

    def _name(self) -> str:
        resource = [
            self._parameters[k] for k in ("Bucket", "Key", "QueueUrl") if k in self._parameters
        ]
        return " ".join([f"{self._service.name}:{self._operation}", "/".join(resource)]).strip()

    def _error(self, problem: AwsError) -> AwsError:
        """Return the error with the call, the attempt and the request ids in its text."""
        self._timeouts += isinstance(problem, AwsTimeout)
        details = [f"attempt {self._attempt}"]
        if self._response is not None:
            request = f"request {_request_id(self._response)}"
            details = [f"status {self._response.status}", request, *details]
        # The text may be a proxy's page, or SQS's quotation of the request to be signed, which
        # contains the session token.
        text = " ".join(self._without_secrets(str(problem)).split())
        return type(problem)(
            f"{self._name()}: {problem.code}{': ' if text else ''}{text:.300} "
            f"({', '.join(details)})",
            code=problem.code,
            status=problem.status,
        )

    def _without_secrets(self, text: str) -> str:
        if self._key is not None:
            for secret in filter(None, (self._key.secret_key, self._key.token)):
                text = text.replace(secret, "********")
        return text


def _prepared(request: AWSRequest) -> tuple[str, str, Mapping[str, str], bytes]:
    """The method, URL, headers and body of a signed request."""
    prepared = request.prepare()
    headers = {
        name: value.decode() if isinstance(value, bytes) else str(value)
        for name, value in prepared.headers.items()
        if name.lower() != "content-length"
    }
    body = prepared.body or b""
    return prepared.method, prepared.url, headers, body.encode() if isinstance(body, str) else body


def _request_id(response: RawResponse) -> str:
    """The ids by which AWS finds a request."""
    ids = [
        response.headers[name]
        for name in ("x-amzn-requestid", "x-amz-request-id", "x-amz-id-2")
        if name in response.headers
    ]
    return " ".join(ids) or "unknown"

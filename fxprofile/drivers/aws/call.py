"""
One call of an AWS service, from its first try to its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.logger import Logger

from fxprofile import __version__
from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.tasks import sleep
from fxprofile.drivers.aws.bodies import PlainStream
from fxprofile.drivers.aws.credentials import Keys
from fxprofile.drivers.aws.errors import AwsError, AwsMalformed, AwsRefused, AwsUnreachable
from fxprofile.drivers.aws.retries import STALE_KEYS, is_retryable
from fxprofile.drivers.aws.signing import sign
from fxprofile.drivers.aws.transport import EarlyAnswer, Reply, ReplyBody, Silent, Unreachable
from fxprofile.drivers.aws.wire import Endpoint, Unreadable, Wire

if TYPE_CHECKING:
    from fxprofile.drivers.aws.client import AwsClient, AwsService

#: The longest answer that is not a stream, in bytes: ten messages of 1 MiB, and XML or JSON
#: around them.
MAX_ANSWER: Final = 32 << 20

#: Times the time in which a sign of life has to come, for the whole of such an answer: one
#: that comes in drops would otherwise never end.
READ_TIMES: Final = 2

#: Tries of one call in which nothing comes for too long.  Each takes half a minute, and whoever
#: waits for the call is to hear of a server that hangs before giving up as well.
MAX_SILENCES: Final = 2

#: Seconds by which our clock and that of AWS must differ to be why it refused a request.
MIN_SKEW: Final = 120

_log = Logger()


@dataclass(frozen=True)
class Stream:
    """
    A body that can be sent only once.

    :ivar payload: what stands for its digest in the signature.
    """

    body: PlainStream
    payload: str


@dataclass(frozen=True)
class Answer:
    """
    What a call gave.

    :ivar members: the parsed answer, by the names that AWS's documentation uses.
    :ivar headers: with names in lower case.
    :ivar body: of a call that asked for a stream; whoever made the call closes it.
    """

    members: Mapping[str, Any]
    headers: Mapping[str, str]
    body: ReplyBody | None = None


class Call:
    """One call, from its first try to its last."""

    def __init__(
        self,
        client: AwsClient,
        service: AwsService,
        operation: str,
        parameters: Mapping[str, Any],
        stream: Stream | None,
        headers: Mapping[str, str] | None,
        timeout: float,
    ) -> None:
        self._client = client
        self._service = service
        self._operation = operation
        self._parameters = parameters
        self._stream = stream
        self._headers = headers or {}
        self._timeout = timeout
        self._attempt = 0
        self._silences = 0
        self._keys: Keys | None = None
        self._corrected: set[str] = set()
        self._reply: Reply | None = None

    async def run(self, streamed: bool, max_attempts: int) -> Answer:
        """See :meth:`fxprofile.drivers.aws.client.AwsService.call`."""
        paid: int | None = None
        while True:
            self._attempt += 1
            try:
                answer = await self._try(streamed)
            except AwsError as error:
                if self._stream is not None and self._stream.body.started:
                    # What can be put right helps the next call.
                    self._correct(error)
                    raise
                if self._correct(error):
                    continue
                if not is_retryable(error) or self._attempt >= max_attempts:
                    raise
                if self._silences >= MAX_SILENCES:
                    raise
                paid = self._client.budget.take(error)
                if paid is None:
                    raise
                delay = self._client.backoff.delay(self._attempt, error)
                _log.info("{error}; next try in {delay:.2f} s", error=error, delay=delay)
                await sleep(self._client.clock, delay)
            else:
                self._client.budget.succeeded(paid)
                return answer

    async def _try(self, streamed: bool) -> Answer:
        self._reply = None
        wire = await self._client.wire(self._service.name)
        endpoint = await self._service.endpoint(self._parameters.get("Bucket"))
        self._keys = await self._client.credentials.keys()
        started = self._client.clock.seconds()
        reply = self._reply = await self._send(wire, endpoint, self._keys)
        body = b""
        if not streamed or reply.status >= 300:
            body = await self._read(reply)
        try:
            status, members = wire.parse(self._operation, reply.status, reply.headers, body)
        except Unreadable as problem:
            if reply.status < 300:
                await reply.body.aclose()
                raise self._error(AwsMalformed, "Malformed", str(problem)) from problem
            status, members = reply.status, {}
        _log.debug(
            "{what} answered {status} in {seconds:.3f} s, request {request}",
            what=self._what(),
            status=status,
            seconds=self._client.clock.seconds() - started,
            request=_request_id(reply),
        )
        if status >= 300:
            error = members.get("Error", {})
            raise self._error(
                AwsRefused,
                str(error.get("Code") or status),
                str(error.get("Message") or ""),
                status,
            )
        return Answer(members, reply.headers, reply.body if streamed else None)

    async def _send(self, wire: Wire, endpoint: Endpoint, keys: Keys) -> Reply:
        try:
            request = wire.request(
                self._operation, self._parameters, endpoint, f"fxprofile/{__version__}"
            )
        except BotoCoreError as error:
            raise AwsError(f"{self._what()}: {error}", code="InvalidParameters") from None
        for name, value in self._headers.items():
            request.headers[name] = value
        sign(
            request,
            keys=keys,
            service=endpoint.signing_name,
            region=endpoint.signing_region,
            seconds=self._client.clock.seconds() + self._client.skew,
            payload=self._stream.payload if self._stream else None,
        )
        prepared = request.prepare()
        headers = {
            name: value.decode() if isinstance(value, bytes) else str(value)
            for name, value in prepared.headers.items()
            if name.lower() != "content-length"
        }
        body = self._stream.body if self._stream else _as_bytes(prepared.body)
        try:
            return await self._client.transport.send(
                prepared.method, prepared.url, headers, body, self._timeout
            )
        except Unreachable as problem:
            self._silences += isinstance(problem, Silent)
            raise self._error(AwsUnreachable, "Unreachable", str(problem)) from problem
        except EarlyAnswer:
            raise self._error(AwsMalformed, "EarlyAnswer", "said yes to half a body") from None

    async def _read(self, reply: Reply) -> bytes:
        longest = READ_TIMES * self._timeout
        reading = Deferred.fromCoroutine(read_all(reply.body, MAX_ANSWER))
        try:
            return await reading.addTimeout(longest, self._client.clock)
        except (Unreachable, WaitTimeout) as problem:
            if reply.status >= 300:
                return b""
            self._silences += isinstance(problem, (Silent, WaitTimeout))
            text = str(problem)
            if isinstance(problem, WaitTimeout):
                text = f"the answer has not ended after {longest:g} s"
            raise self._error(AwsUnreachable, "Unreachable", text) from problem
        except OverflowError as problem:
            raise self._error(AwsMalformed, "TooLong", str(problem)) from problem

    def _correct(self, error: AwsError) -> bool:
        """
        Put right what AWS has found wrong with us.

        :returns: whether there was something, for the first time in this call.
        """
        correction = self._find_correction(error)
        if correction is None or correction in self._corrected:
            return False
        self._corrected.add(correction)
        _log.info("{error}; corrected the {correction}", error=error, correction=correction)
        return True

    def _find_correction(self, error: AwsError) -> str | None:
        reply = self._reply
        if reply is None or not isinstance(error, AwsRefused):
            return None
        bucket = self._parameters.get("Bucket")
        region = reply.headers.get("x-amz-bucket-region")
        if (
            bucket
            and region
            and reply.status in (301, 307, 400)
            and self._service.found_elsewhere(bucket, region)
        ):
            return "region"
        if reply.status in (400, 401, 403) and self._correct_clock(reply):
            return "clock"
        # The answer to a HEAD has no body that would say why.
        stale = error.code in STALE_KEYS or (error.code == "400" and reply.status == 400)
        if stale and self._keys is not None:
            self._client.credentials.distrust(self._keys)
            return "keys"
        return None

    def _correct_clock(self, reply: Reply) -> bool:
        try:
            there = parsedate_to_datetime(reply.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return False
        skew = there - self._client.clock.seconds()
        if abs(skew - self._client.skew) < MIN_SKEW:
            return False
        self._client.skew = skew
        return True

    def _what(self) -> str:
        resource = [
            self._parameters[k] for k in ("Bucket", "Key", "QueueUrl") if k in self._parameters
        ]
        return " ".join([f"{self._service.name}:{self._operation}", "/".join(resource)]).strip()

    def _error(
        self, kind: type[AwsError], code: str, message: str, status: int | None = None
    ) -> AwsError:
        where = [f"try {self._attempt}"]
        if self._reply is not None:
            where = [f"status {self._reply.status}", f"request {_request_id(self._reply)}", *where]
        # A proxy may answer with a page, and SQS with all that should have been signed, the
        # session token included.
        message = " ".join(self._without_secrets(message).split())
        return kind(
            f"{self._what()}: {code}{': ' if message else ''}{message:.300} ({', '.join(where)})",
            code=code,
            status=status,
        )

    def _without_secrets(self, text: str) -> str:
        if self._keys is not None:
            for secret in filter(None, (self._keys.secret_key, self._keys.token)):
                text = text.replace(secret, "********")
        return text


def _as_bytes(body: object) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else bytes(body)  # type: ignore[call-overload]


def _request_id(reply: Reply) -> str:
    """The ids by which AWS finds a request."""
    ids = [
        reply.headers[name]
        for name in ("x-amzn-requestid", "x-amz-request-id", "x-amz-id-2")
        if name in reply.headers
    ]
    return " ".join(ids) or "unknown"

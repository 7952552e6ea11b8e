"""
The API: routing, bearer tokens, request bodies, errors, headers, logs and metrics.

An endpoint is a coroutine method that takes an :class:`ApiRequest` and returns an
:class:`ApiResponse` or raises; its :class:`~fxprofile.web.operations.Operation` declares the
rest.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (routing imports it, at worst when no descriptor is left)
import hashlib
import hmac
import json
import random
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs

from klein import Klein
from pydantic import SecretStr
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request

from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.tasks import detached
from fxprofile.model.errors import (
    ApiError,
    BackendUnavailable,
    BadRequest,
    DriverError,
    Forbidden,
    InternalError,
    NotFound,
    PayloadTooLarge,
    TargetTooLong,
    Unauthorized,
    UnsupportedMediaType,
)
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import Credentials
from fxprofile.profiles.scopes import allows
from fxprofile.serving.channel import (
    NOT_DONE_YET,
    StreamingRequest,
    StreamingSite,
    bad_request,
)
from fxprofile.serving.conditional import matches
from fxprofile.serving.connections import ConnectionLimits
from fxprofile.serving.head import header_lines
from fxprofile.telemetry import traces
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.errors import translate
from fxprofile.web.limits import RateLimiter, address_of
from fxprofile.web.models import M, validated
from fxprofile.web.operations import Operation

#: On every response.
SECURITY_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "private, no-cache, no-store, must-revalidate",
    "Referrer-Policy": "no-referrer",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Last-Modified, Location, Retry-After",
}

_SECURITY_LINES = header_lines(SECURITY_HEADERS)

#: Request headers that pages of other origins may send.  The last four trace requests: Sentry,
#: the functional tests of Firefox Accounts, and W3C Trace Context.
CORS_HEADERS = (
    *("Authorization", "Content-Type", "If-None-Match", "Prefer", "Accept"),
    *("sentry-trace", "baggage", "fxa-ci", "traceparent"),
)

#: Maximum length of a JSON body, in bytes.
MAX_JSON = 64 << 10

#: Maximum length of a form, in bytes, and of its fields.  It is parsed before its token is
#: verified, and decoding a field costs far more than a byte.
MAX_FORM = 8 << 10
MAX_FIELDS = 100

# JSON, and formats based on it (RFC 6839, section 3.1).
_JSON_TYPE = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json", re.ASCII | re.IGNORECASE)

# RFC 6750, section 2.1.  No token of the OAuth server is longer.
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,4096}=*)", re.IGNORECASE)

#: Seconds after which a request is answered, however many slow dependencies it has to wait for one
#: after the other; the time that the client takes to send a body does not count.  Uploads, which
#: may wait for their result, are not limited by this.
ANSWER_WITHIN = 9.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_allows = lru_cache(maxsize=1024)(allows)

_ANONYMOUS = Credentials(uid="", scopes=())
_METHODS = (b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS")

# json.dumps would make one for each response.
_to_json = json.JSONEncoder(ensure_ascii=False).encode

#: Requests that are logged as debug: load balancers send them every few seconds.
HEALTH_CHECKS = ("/__heartbeat__", "/__lbheartbeat__")


@dataclass(frozen=True)
class ApiResponse(Generic[T_co]):
    """
    The response of an endpoint.

    :ivar body: bytes, or a value to encode as JSON; None for no body.
    """

    status: int = 200
    body: T_co | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> tuple[bytes, dict[str, str]]:
        """Return the bytes of the body, and the headers that are the response's own."""
        headers = dict(self.headers)
        if self.body is None:
            return b"", headers
        if isinstance(self.body, bytes):
            return self.body, headers
        headers.setdefault("Content-Type", "application/json; charset=utf-8")
        return _to_json(self.body).encode(), headers

    def send(self, request: StreamingRequest) -> None:
        """Respond to a request, with the common headers besides the response's own."""
        body, headers = self.encode()
        headers["X-Request-Id"] = request.request_id
        if SECURITY_HEADERS.keys().isdisjoint(headers):
            lines = _SECURITY_LINES + header_lines(headers)
        else:
            lines = header_lines({**SECURITY_HEADERS, **headers})
        request.respond(self.status, lines, body)


@dataclass(frozen=True)
class ApiRequest:
    """
    A request to an endpoint.

    :ivar token: the bearer token, and ``credentials`` what it stands for; both are empty if
        the endpoint needs no token.
    """

    request: StreamingRequest
    token: str = field(default="", repr=False)
    credentials: Credentials = _ANONYMOUS

    @property
    def uid(self) -> str:
        """The user of the token."""
        return self.credentials.uid

    def header(self, name: str) -> str | None:
        """Return a header, or None; several of one name are joined (RFC 9110, section 5.3)."""
        values = self.request.requestHeaders.getRawHeaders(name.encode())
        return None if values is None else ", ".join(v.decode("latin-1") for v in values)

    def has_current(self, etag: str) -> bool:
        """Return whether ``If-None-Match`` names this tag, which is given without quotes."""
        header = self.header("If-None-Match")
        return header is not None and matches(header, etag)

    async def json(self, model: type[M]) -> M:
        """
        Read and validate a JSON body.

        :raises BadRequest: if it is not JSON, or not what the model describes.
        :raises PayloadTooLarge: if it is longer than :data:`MAX_JSON`.
        :raises UnsupportedMediaType: if its headers say that it is not plain JSON.
        """
        # A missing Content-Type counts as JSON.
        if _JSON_TYPE.fullmatch(self._media_type or "application/json") is None:
            raise UnsupportedMediaType("The Content-Type must be application/json.")
        if (self.header("Content-Encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("Send the JSON as it is, without a Content-Encoding.")
        data = await self._read(MAX_JSON)
        try:
            members = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise BadRequest("The body is not JSON in UTF-8.") from None
        if not isinstance(members, dict):
            raise BadRequest("The body is not a JSON object.")
        return validated(model, members)

    async def form_field(self, name: str) -> str | None:
        """
        Return a field of the form in the body, or None if the body is not a form or lacks it.

        :raises BadRequest: if the field is there twice, the form is not ASCII, or it has more
            fields than :data:`MAX_FIELDS`.
        :raises PayloadTooLarge: if the form is longer than :data:`MAX_FORM`.
        """
        if self._media_type != "application/x-www-form-urlencoded":
            return None
        try:
            form = (await self._read(MAX_FORM)).decode("ascii")
            if 3 * form.count("%") > len(form):
                # Not all of them can be escapes, and each takes as long as one.
                raise ValueError
            fields = parse_qs(form, keep_blank_values=True, max_num_fields=MAX_FIELDS)
            (value,) = fields.get(name, [None])
        except ValueError:
            raise BadRequest(
                f"The form must be ASCII, with one field {name} and at most {MAX_FIELDS} in all."
            ) from None
        return value

    @property
    def _media_type(self) -> str:
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    async def _read(self, limit: int) -> bytes:
        try:
            if int(self.header("Content-Length") or 0) > limit:
                raise OverflowError
            return await read_all(self.request.body, limit)
        except OverflowError:
            raise PayloadTooLarge(f"The body must be at most {limit} bytes long.") from None


Handler = Callable[..., Coroutine[Any, Any, ApiResponse[object]]]


class RoutedRequest(StreamingRequest, Request):
    """A request that Klein can route, because it is one of :mod:`twisted.web.server`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, parsePOSTFormSubmission=False)


class _Responded(Resource):
    """Tells Klein that the response is sent."""

    isLeaf = True

    def render(self, request: object) -> int:
        return NOT_DONE_YET


class Api(Resource):
    """
    The endpoints of the API.

    Paths without parameters are looked up in a table: Klein's routing takes as long as all else
    that a short response needs.

    As a resource it adds the common headers to each response, and logs and counts each
    request.

    :param identity: verifies tokens.
    :param clock: the reactor.
    :param secret: the setting ``secret_bearer_token``; empty if it is unset.
    :param cors_headers: the setting ``web.cors_headers``.
    :param writes: limits the writes of users; None: unlimited.
    :param address_depth: the setting ``web.client_address_depth``.
    :ivar operations: the registered endpoints, by their ids.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        *,
        identity: IIdentity,
        metrics: Metrics,
        clock: IReactorTime,
        secret: str = "",
        cors_headers: Sequence[str] = (),
        writes: RateLimiter | None = None,
        address_depth: int = 0,
    ) -> None:
        super().__init__()
        self._writes = writes
        self._address_depth = address_depth
        self._identity = identity
        self._metrics = metrics
        self._clock = clock
        self._secret = secret.encode()
        self._preflight = {
            "Access-Control-Allow-Methods": b", ".join(_METHODS).decode(),
            "Access-Control-Allow-Headers": ", ".join((*CORS_HEADERS, *cors_headers)),
            "Access-Control-Max-Age": "86400",
        }
        self.operations: dict[str, Operation] = {}
        # By method and path.
        self._fixed: dict[tuple[bytes, bytes], Callable[[StreamingRequest], Deferred[None]]] = {}
        # Klein's types expect handlers that are methods of the class that holds it.
        self._klein: Any = Klein()
        self._klein.handle_errors(Exception)(self._unrouted)
        self._klein.url_map.strict_slashes = False
        self._klein.url_map.merge_slashes = False
        self._routes = self._klein.resource()

    def change_secret(self, secret: SecretStr | None) -> bool:
        """Take another secret bearer token; return False if there was none, or is none now."""
        new = b"" if secret is None else secret.get_secret_value().encode()
        if not (new and self._secret):
            return False
        self._secret = new
        return True

    def add(self, group: object) -> None:
        """
        Register every method of an object that is decorated with an operation.

        Operations that need the secret bearer token are left out if there is none.

        :raises ValueError: if one of this name, or of this method and path, is registered.
        """
        for name, function in vars(type(group)).items():
            operation = getattr(function, "operation", None)
            if operation is not None and (self._secret or not operation.secret):
                self._route(operation, getattr(group, name))

    def _route(self, operation: Operation, handler: Handler) -> None:
        if operation.id in self.operations or operation.route in self._klein.endpoints:
            raise ValueError(f"{operation.route} ({operation.id}) is registered twice")
        self.operations[operation.id] = operation
        statuses = {operation.status, *(error.code for error in operation.all_errors)}
        self._metrics.expect_requests("api", operation.method, operation.path, statuses)

        async def work(request: StreamingRequest, arguments: Any) -> ApiResponse[object]:
            try:
                call = await self._authorize(operation, request)
                if operation.body is not None:
                    arguments["body"] = await call.json(operation.body)
                response = await handler(call, **arguments)
                if operation.activity:
                    self._log_activity(operation.activity, call)
                return response
            except CancelledError:
                raise
            except Exception as error:
                return self._failed(request, error)

        def serve(request: StreamingRequest, **arguments: str) -> Deferred[None]:
            request.route = operation.path
            working = work(request, arguments)
            # A client that disconnects cancels a read, but not a write.
            is_read = operation.method == "GET"
            answer = Deferred.fromCoroutine(working) if is_read else detached(working)
            if not answer.called and not operation.accepts:
                self._limit(answer, request)
            return answer.addCallback(_send, request).addErrback(self._send_error, request)

        methods = [operation.method]
        self._klein.route(operation.path, methods=methods, endpoint=operation.route)(serve)
        if "<" not in operation.path:
            for method in {"GET": ("GET", "HEAD")}.get(operation.method, methods):
                self._fixed[method.encode(), operation.path.encode()] = serve

    def _limit(self, answer: Deferred[ApiResponse[object]], request: StreamingRequest) -> None:
        """Have a request fail that takes longer than :data:`ANSWER_WITHIN`."""
        timer: IDelayedCall

        def check() -> None:
            nonlocal timer
            until = request.started_at + request.body.waited + ANSWER_WITHIN
            left = until - self._clock.seconds()
            if left > 0:
                timer = self._clock.callLater(left, check)
            else:
                answer.cancel()

        def ended(response: T) -> T:
            if not timer.active():
                raise BackendUnavailable
            timer.cancel()
            return response

        timer = self._clock.callLater(ANSWER_WITHIN, check)
        answer.addBoth(ended)

    async def _authorize(self, operation: Operation, request: StreamingRequest) -> ApiRequest:
        call = ApiRequest(request)
        if operation.scopes is None and not operation.secret:
            return call
        field = await call.form_field("access_token") if operation.token_form else None
        token = _bearer_token(request, field)
        if operation.secret:
            if not hmac.compare_digest(token.encode(), self._secret):
                raise Unauthorized()
            return call
        credentials: Credentials = await self._identity.verify(token=token)
        request.uid = credentials.uid
        if operation.scopes and not _allows(credentials.scopes, *operation.scopes):
            raise Forbidden()
        if operation.writes and self._writes is not None:
            address = address_of(request, self._address_depth)
            await self._writes.count(uid=credentials.uid, address=address)
        return ApiRequest(request, token, credentials)

    def _log_activity(self, event: str, call: ApiRequest) -> None:
        """Log what a user has done, with the members that the original service logs."""
        client = call.credentials.client_id
        self._log.info(
            # One field, as in the line of a request.
            "{summary}",
            summary=f"{event} of user {call.uid}" + (f" by client {client}" if client else ""),
            log_type="activityEvent",
            event=event,
            uid=call.uid,
            client_id=client,
            agent=call.header("User-Agent"),
        )

    def _send_error(self, failure: Failure, request: StreamingRequest) -> None:
        """Respond to a request that took too long, or whose response could not be sent."""
        if request.channel is None:
            # The client has disconnected.
            failure.trap(CancelledError)
        else:
            self._failed(request, failure.value or InternalError()).send(request)

    def _unrouted(self, request: Any, failure: Failure) -> Resource:
        """Respond to a request without an endpoint."""
        self._send_error(failure, request)
        return _Responded()

    def _failed(self, request: StreamingRequest, error: BaseException) -> ApiResponse[object]:
        answer = translate(error)
        request.errno = answer.errno
        if answer.code == 500:
            self._log.failure(
                "Request {request_id} failed",
                failure=Failure(error),
                request_id=request.request_id,
            )
        elif answer.code > 500 or isinstance(error, DriverError):
            self._log.warn(
                "Request {request_id} failed: {error}",
                request_id=request.request_id,
                error=error,
                outage=error,
            )
        return error_response(answer)

    def site(self, limits: ConnectionLimits | None = None) -> StreamingSite:
        """Return the protocol factory of the API's listener."""
        return StreamingSite(
            self,
            reactor=self._clock,
            bad_request=_refusal(BadRequest("This is not a valid HTTP/1.1 request.")),
            bad_length=_refusal(
                BadRequest(
                    "Send one Content-Length header with a whole number, and no Transfer-Encoding."
                )
            ),
            too_long=_refusal(TargetTooLong()),
            limits=limits,
            request_factory=RoutedRequest,
        )

    def render(self, request: RoutedRequest) -> Any:
        request.request_id = _random_id()
        # Several headers are as good as none.
        values = request.requestHeaders.getRawHeaders(b"traceparent", ())
        traceparent = values[0].decode("latin-1") if len(values) == 1 else None
        trace = traces.continued(traceparent, request.request_id)
        request.trace_id = trace.trace_id
        with traces.active(trace):
            return self._render(request)

    def _render(self, request: RoutedRequest) -> Any:
        request.notifyFinish().addBoth(self._finished, request)
        serve = self._fixed.get((request.method, request.path))
        if serve is not None:
            answer = serve(request)
            if not answer.called:
                # As Klein does.
                request.notifyFinish().addErrback(lambda _: answer.cancel())
            return NOT_DONE_YET
        if request.method == b"OPTIONS":
            ApiResponse(204, None, self._preflight).send(request)
            return NOT_DONE_YET
        if request.path.startswith(b"//") or b"%2f" in request.path.lower():
            # Routing takes them for plain slashes; a proxy that refuses some paths may not.
            self._failed(request, NotFound()).send(request)
            return NOT_DONE_YET
        if request.method not in _METHODS:
            # Routing ignores case, and methods are case-sensitive (RFC 9110, section 9.1).
            request.method = b"OTHER"
        try:
            request.path.decode()
            b"/".join(request.postpath or ()).decode()
        except UnicodeDecodeError:
            self._failed(request, BadRequest("The path is not UTF-8.")).send(request)
            return NOT_DONE_YET
        return self._routes.render(request)

    def _finished(self, outcome: object, request: StreamingRequest) -> None:
        status, seconds = request.count(outcome, self._metrics, "api", _METHODS)
        method, ms = request.method.decode("ascii", "replace"), round(seconds * 1000)
        request_id, trace_id = request.request_id, request.trace_id
        self._log.emit(
            LogLevel.debug if request.route in HEALTH_CHECKS else LogLevel.info,
            # One field: each one takes as long to format as all else of the line.
            "{summary}",
            summary=f"{method} {request.route} {status} {ms} ms {request_id} trace={trace_id}",
            log_type="request.summary",
            method=method,
            route=request.route,
            status=status,
            errno=request.errno,
            ms=ms,
            uid_hash=hashlib.sha256(request.uid.encode()).hexdigest()[:16] if request.uid else "",
            request_id=request_id,
            trace_id=trace_id,
        )


def _random_id() -> str:
    """Return an id that is unique, and need not be unpredictable."""
    return f"{random.getrandbits(64):016x}"


def _send(response: ApiResponse[object], request: StreamingRequest) -> None:
    response.send(request)


def _bearer_token(request: StreamingRequest, field: str | None) -> str:
    """
    Return the token of a request (RFC 6750, sections 2.1 and 2.2).

    :param field: the token in the form that is the body of the request, if it has one.
    :raises BadRequest: if there is a form field beside the header.
    :raises Unauthorized: if it does not have exactly one valid token.
    """
    values = request.requestHeaders.getRawHeaders(b"Authorization", [b""])
    if field is not None:
        if values != [b""]:
            raise BadRequest("Send the token in the Authorization header or as a form field.")
        values = [b"Bearer " + field.encode()]
    match = _BEARER.fullmatch(values[0])
    if match is None or len(values) > 1:
        raise Unauthorized()
    return match.group(1).decode()


def error_response(error: ApiError) -> ApiResponse[object]:
    """Return the response for an error."""
    return ApiResponse(error.code, error.body, error.headers)


def _refusal(error: ApiError) -> bytes:
    body, headers = error_response(error).encode()
    headers = {**SECURITY_HEADERS, "X-Request-Id": _random_id(), **headers}
    return bad_request(headers, body, error.code)

"""
How every endpoint of the API is reached: routes, tokens, headers, errors, figures.

An endpoint is a coroutine that takes a :class:`ApiRequest` and gives an :class:`ApiResponse` or
raises; the rest is here, once.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (routing needs it, and there may be no descriptor left then)
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from klein import Klein
from klein import Response as KleinResponse
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from fxprofile.deferreds.tasks import detached
from fxprofile.model.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import Credentials
from fxprofile.profiles.scopes import Scopes
from fxprofile.serving.channel import StreamingRequest
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.errors import translate

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

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match, Prefer",
    "Access-Control-Max-Age": "86400",
}

#: Bytes of a JSON body.
MAX_JSON = 64 << 10

# JSON and what is written in it (RFC 6839, section 3.1).
_JSON_TYPE = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json", re.ASCII | re.IGNORECASE)

# RFC 6750, section 2.1; a longer token than this is none of ours.
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,4096}=*)", re.IGNORECASE)


@dataclass(frozen=True)
class ApiResponse:
    """
    What an endpoint answers.

    :ivar body: bytes, or whatever JSON can say; None for no body.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ApiRequest:
    """
    One request to an endpoint.

    :ivar token: and ``credentials``: who asks; empty if the endpoint is open to all.
    """

    request: StreamingRequest
    token: str = field(repr=False)
    credentials: Credentials

    @property
    def uid(self) -> str:
        """The user that the token speaks for."""
        return self.credentials.uid

    def header(self, name: str) -> str | None:
        """A header, or None.  Several of one name are joined, as RFC 9110 has it."""
        values = self.request.requestHeaders.getRawHeaders(name.encode())
        return None if values is None else ", ".join(v.decode("latin-1") for v in values)

    async def json(self) -> dict[str, Any]:
        """
        The body, a JSON object.

        :raises ApiError: if it is something else, or too large.
        """
        self._check_type()
        length = self.header("Content-Length")
        if length is not None and int(length) > MAX_JSON:
            raise PayloadTooLarge(f"The body must be at most {MAX_JSON} bytes long.")
        data = await self.request.body.read(MAX_JSON)
        if data is None:
            raise PayloadTooLarge(f"The body must be at most {MAX_JSON} bytes long.")
        try:
            members = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise BadRequest("The body is not JSON in UTF-8.") from None
        if not isinstance(members, dict):
            raise BadRequest("The body is not a JSON object.")
        return members

    def _check_type(self) -> None:
        # Who says nothing of the type is believed to know what is wanted here.
        content_type = (self.header("Content-Type") or "application/json").partition(";")[0]
        if _JSON_TYPE.fullmatch(content_type.strip()) is None:
            raise UnsupportedMediaType("The Content-Type must be application/json.")
        if (self.header("Content-Encoding") or "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("Send the JSON as it is, without a Content-Encoding.")


Endpoint = Callable[..., Coroutine[Any, Any, ApiResponse]]
NOBODY = Credentials(uid="", scopes=())


class Api:
    """
    The routes of the API.

    :param identity: verifies tokens.
    :ivar routes: the scopes of each endpoint, by its method and path.
    """

    _log = Logger()

    def __init__(self, *, identity: IIdentity, metrics: Metrics, clock: IReactorTime) -> None:
        self._identity = identity
        self._metrics = metrics
        self._clock = clock
        self.routes: dict[tuple[str, str], tuple[str, ...] | None] = {}
        # Klein's types want handlers that are methods of the class it is made in.
        klein: Any = Klein()
        self._klein = klein
        self._klein.handle_errors(Exception)(self._unrouted)
        self._klein.url_map.strict_slashes = False
        self._klein.url_map.merge_slashes = False

    def route(
        self, method: str, path: str, *, scopes: tuple[str, ...] | None = None
    ) -> Callable[[Endpoint], Endpoint]:
        """
        Register an endpoint.

        :param path: in werkzeug's notation.
        :param scopes: of which a token needs one; empty if any valid token will do,
            None if there is no need of a token.
        """

        def register(endpoint: Endpoint) -> Endpoint:
            async def answer(request: StreamingRequest, **parts: str) -> KleinResponse:
                request.route = path
                work = self._told(request, self._run(endpoint, scopes, request, parts))
                # Whether its client waits for it or not, a write goes to its end.
                return _response(await (work if method == "GET" else detached(work)))

            if (method, path) in self.routes:
                raise ValueError(f"there are two endpoints for {method} {path}")
            self.routes[method, path] = scopes
            self._klein.route(path, methods=[method], endpoint=f"{method} {path}")(answer)
            return endpoint

        return register

    async def _run(
        self,
        endpoint: Endpoint,
        scopes: tuple[str, ...] | None,
        request: StreamingRequest,
        parts: Mapping[str, str],
    ) -> ApiResponse:
        return await endpoint(await self._admit(request, scopes), **parts)

    async def _admit(self, request: StreamingRequest, scopes: tuple[str, ...] | None) -> ApiRequest:
        if scopes is None:
            return ApiRequest(request=request, token="", credentials=NOBODY)
        token = bearer_token(request)
        if token is None:
            raise Unauthorized()
        credentials: Credentials = await self._identity.verify(token=token)
        request.uid = credentials.uid
        if scopes and not Scopes(credentials.scopes).allows(*scopes):
            raise Forbidden()
        return ApiRequest(request=request, token=token, credentials=credentials)

    async def _told(
        self, request: StreamingRequest, work: Coroutine[Any, Any, ApiResponse]
    ) -> ApiResponse:
        """The answer of an endpoint, also to what went wrong in it."""
        try:
            return await work
        except CancelledError:
            raise
        except Exception as error:
            return self._failed(request, error)

    def _unrouted(self, request: Any, failure: Failure) -> KleinResponse:
        """No endpoint was found, or a reader has gone away."""
        failure.trap(Exception)
        return _response(self._failed(request, failure.value))

    def _failed(self, request: StreamingRequest, error: BaseException | None) -> ApiResponse:
        told = translate(error or Exception())
        request.errno = told.errno
        if told.code == 500:
            self._log.failure(
                "Request {request_id} failed",
                failure=Failure(error),
                request_id=request.request_id,
            )
        elif told.code > 500:
            self._log.warn(
                "Request {request_id} failed: {error}",
                request_id=request.request_id,
                error=error,
                outage=error,
            )
        return error_answer(told)

    def resource(self) -> IResource:
        """The root of the API's listener."""
        return _ApiResource(self._klein, self._metrics, self._clock)


class _ApiResource(Resource):
    """Gives each response its headers, and each request its line in log and metrics."""

    isLeaf = True
    _log = Logger()

    def __init__(self, klein: Any, metrics: Metrics, clock: IReactorTime) -> None:
        super().__init__()
        self._routes = klein.resource()
        self._metrics = metrics
        self._clock = clock

    def render(self, request: StreamingRequest) -> Any:
        request.request_id = secrets.token_hex(8)
        for name, value in SECURITY_HEADERS.items():
            request.setHeader(name, value)
        request.setHeader("X-Request-Id", request.request_id)
        request.notifyFinish().addBoth(self._finished, request)
        if request.method == b"OPTIONS":
            for name, value in _PREFLIGHT.items():
                request.setHeader(name, value)
            request.setResponseCode(204)
            # What is returned would get a Content-Length, which a 204 has none of (RFC 9110,
            # section 8.6).
            request.finish()
            return NOT_DONE_YET
        try:
            request.path.decode()
            b"/".join(request.postpath or ()).decode()
        except UnicodeDecodeError:
            error = BadRequest("The path is not UTF-8.")
            request.errno = error.errno
            return _write(request, error_answer(error))
        return self._routes.render(request)

    def _finished(self, outcome: object, request: StreamingRequest) -> None:
        seconds = self._clock.seconds() - request.started_at
        gone = isinstance(outcome, Failure)
        status = 499 if gone else request.code
        method = request.method.decode("ascii", "replace")
        self._metrics.requests.labels(
            "api", method if method in _METHODS else "other", request.route, status
        ).inc()
        self._metrics.request_seconds.labels("api", request.route).observe(seconds)
        self._log.info(
            "{method} {route} {status} {ms} ms {request_id}",
            log_type="request.summary",
            method=method,
            route=request.route,
            status=status,
            errno=request.errno,
            ms=round(seconds * 1000),
            uid_hash=hashlib.sha256(request.uid.encode()).hexdigest()[:16] if request.uid else "",
            request_id=request.request_id,
        )


_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


def bearer_token(request: StreamingRequest) -> str | None:
    """The token of a request (RFC 6750, section 2.1), or None if it has no good one."""
    values = request.requestHeaders.getRawHeaders(b"Authorization", [])
    if len(values) != 1:
        return None
    match = _BEARER.fullmatch(values[0])
    return match.group(1).decode() if match else None


def error_answer(error: ApiError) -> ApiResponse:
    """The answer that tells an error."""
    return ApiResponse(
        status=error.code,
        body={
            "code": error.code,
            "errno": error.errno,
            "error": HTTPStatus(error.code).phrase,
            "message": error.text,
            **error.details,
        },
        headers=error.headers,
    )


def _encode(answer: ApiResponse) -> tuple[bytes, dict[str, str]]:
    headers = dict(answer.headers)
    if answer.body is None:
        return b"", headers
    if isinstance(answer.body, bytes):
        return answer.body, headers
    headers.setdefault("Content-Type", "application/json; charset=utf-8")
    return json.dumps(answer.body, ensure_ascii=False).encode(), headers


def _response(answer: ApiResponse) -> KleinResponse:
    body, headers = _encode(answer)
    if answer.status not in (204, 304):
        headers["Content-Length"] = str(len(body))
    named: dict[str | bytes, Any] = dict(headers.items())
    return KleinResponse(answer.status, named, body)


def _write(request: StreamingRequest, answer: ApiResponse) -> bytes:
    body, headers = _encode(answer)
    request.setResponseCode(answer.status)
    for name, value in headers.items():
        request.setHeader(name, value)
    return body


def bad_request() -> bytes:
    """The whole response to something that is not HTTP, and so has no request."""
    return _whole_response("This is not an HTTP/1.1 request that can be understood.")


def bad_length() -> bytes:
    """The whole response to something of which nobody knows where it ends."""
    return _whole_response(
        "Send one Content-Length header, with a whole number, and no Transfer-Encoding beside it."
    )


def _whole_response(message: str) -> bytes:
    answer = error_answer(BadRequest(message))
    body, headers = _encode(answer)
    headers = {
        **SECURITY_HEADERS,
        "X-Request-Id": secrets.token_hex(8),
        **headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = ["HTTP/1.1 400 Bad Request", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body

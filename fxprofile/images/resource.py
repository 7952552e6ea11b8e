"""
What the images listener answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NOT_MODIFIED, RESPONSES, Request, datetimeToString
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from fxprofile.aio import BytesBody, Threads
from fxprofile.errors import (
    ApiError,
    BackendUnavailable,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ObjectNotFound,
    StorageError,
)
from fxprofile.images.conditional import entity_tag, not_modified
from fxprofile.images.default_avatar import DefaultPicture, read_default_avatar
from fxprofile.images.flights import Flights
from fxprofile.images.flow import cut_off, send
from fxprofile.images.hot import HotPictures
from fxprofile.interfaces import Body
from fxprofile.keys import DEFAULT_AVATAR_ID, VARIANTS, is_image_name, public_key, public_keys
from fxprofile.metrics import Metrics
from fxprofile.model import ObjectInfo

_log = Logger()

_PREFIX: Final = b"/a/"
_VARIANTS: Final = {suffix: variant for variant, (suffix, _) in VARIANTS.items()}
_ID_LENGTH: Final = len(DEFAULT_AVATAR_ID)
_DEFAULTS: Final = frozenset(public_keys(DEFAULT_AVATAR_ID))
_METHODS: Final = (b"GET", b"HEAD")


def key_of(path: bytes) -> str | None:
    """The key of the object that a URL path names, or None if it names none."""
    if not path.startswith(_PREFIX):
        return None
    name = path[len(_PREFIX) :].decode("latin-1")
    if not is_image_name(name):
        return None
    return public_key(name[:_ID_LENGTH], _VARIANTS[name[_ID_LENGTH:]])


class ImagesResource(Resource):
    """
    ``GET|HEAD /a/{id}[_small|_large]``, and nothing else.

    :param pictures: the public bucket.
    :param max_age: of the Cache-Control header, in seconds.
    :param clock: times those who take too long.
    :param threads: where the default avatar is read, once.
    :param stall: how long a client may take nothing of a picture, in seconds.
    :param metrics: where the answers are counted.
    """

    isLeaf = True

    def __init__(
        self,
        *,
        pictures: HotPictures,
        max_age: int,
        clock: IReactorTime,
        threads: Threads,
        stall: float,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self._pictures = pictures
        self._cache_control = f"public, max-age={max_age}".encode("ascii")
        self._clock = clock
        self._threads = threads
        self._stall = stall
        self._metrics = metrics
        self._default: Mapping[str, DefaultPicture] | None = None
        self._reading: Flights[Mapping[str, DefaultPicture]] = Flights()

    def render(self, request: Request) -> int:
        began = self._clock.seconds()
        work = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._refuse, request)
        work.addErrback(lambda failure: _log.failure("An answer was lost", failure=failure))
        work.addBoth(lambda _: self._count(request, began))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        key = key_of(request.path)
        if key is None:
            raise NotFound
        if request.method not in _METHODS:
            raise MethodNotAllowed(headers={"Allow": "GET, HEAD"})
        if key in _DEFAULTS:
            await self._answer_default(request, key)
            return
        if request.method == b"HEAD" or _is_conditional(request):
            info, source = await self._pictures.look(key)
            if self._answer_without_body(request, info):
                self._metrics.image_cache.labels(source).inc()
                return
        picture = await self._pictures.open(key)
        self._metrics.image_cache.labels(picture.source).inc()
        await self._send(request, picture.info, picture.body)

    async def _answer_default(self, request: Request, key: str) -> None:
        if self._default is None:
            self._default = await self._reading.join("", self._read_default)
        default = self._default[key]
        self._metrics.image_cache.labels("default").inc()
        if not self._answer_without_body(request, default.info):
            await self._send(request, default.info, BytesBody(default.data))

    async def _read_default(self) -> Mapping[str, DefaultPicture]:
        return await self._threads.run(read_default_avatar)

    def _answer_without_body(self, request: Request, info: ObjectInfo) -> bool:
        """Finish the answer, if the headers are all of it."""
        headers = request.requestHeaders
        if not_modified(
            none_match=headers.getRawHeaders(b"If-None-Match", []),
            modified_since=request.getHeader(b"If-Modified-Since"),
            tag=entity_tag(info.etag),
            modified=info.modified,
        ):
            self._set_validators(request, info)
            request.setResponseCode(NOT_MODIFIED)
        elif request.method == b"HEAD":
            self._set_headers(request, info)
        else:
            return False
        request.finish()
        return True

    async def _send(self, request: Request, info: ObjectInfo, body: Body) -> None:
        try:
            await send(
                request=request,
                body=body,
                length=info.length,
                begin=lambda: self._set_headers(request, info),
                clock=self._clock,
                stall=self._stall,
            )
        finally:
            await body.aclose()
        request.finish()

    def _set_validators(self, request: Request, info: ObjectInfo) -> None:
        request.setHeader(b"ETag", entity_tag(info.etag))
        request.setHeader(b"Last-Modified", datetimeToString(info.modified))
        request.setHeader(b"Cache-Control", self._cache_control)

    def _set_headers(self, request: Request, info: ObjectInfo) -> None:
        self._set_validators(request, info)
        request.setHeader(b"Content-Type", b"image/png")
        request.setHeader(b"Content-Length", b"%d" % info.length)
        request.setHeader(b"Content-Disposition", b"inline")

    def _refuse(self, failure: Failure, request: Request) -> None:
        if request.channel is None:
            if not failure.check(CancelledError):
                _log.failure("A picture that nobody waits for any longer failed", failure=failure)
            return
        if request.startedWriting:
            # A clean end would pass a part off as the whole.
            _log.warn("{path}: cut off: {error}", path=request.path, error=failure.value)
            cut_off(request)
            return
        if failure.check(ObjectNotFound):
            error: ApiError = NotFound()
        elif failure.check(StorageError):
            _log.warn("{path}: {error}", path=request.path, error=failure.value)
            error = BackendUnavailable()
        elif isinstance(failure.value, ApiError):
            error = failure.value
        else:
            _log.failure("{path}", failure=failure, path=request.path)
            error = InternalError()
        write_error(request, error)
        request.finish()

    def _count(self, request: Request, began: float) -> None:
        method = request.method.decode("ascii") if request.method in _METHODS else "other"
        route = "other" if key_of(request.path) is None else "/a/{id}"
        status = str(request.code) if request.finished else "aborted"
        self._metrics.requests.labels("images", method, route, status).inc()
        self._metrics.request_seconds.labels("images", route).observe(self._clock.seconds() - began)


def write_error(request: Request, error: ApiError) -> None:
    """Write an error in the words of the API, for no cache to keep."""
    body = json.dumps(
        {
            "code": error.code,
            "errno": error.errno,
            "error": RESPONSES[error.code].decode("ascii"),
            "message": error.text,
        }
    ).encode("ascii")
    request.setResponseCode(error.code)
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Content-Length", b"%d" % len(body))
    for name, value in error.headers.items():
        request.setHeader(name, value)
    request.write(body)


def _is_conditional(request: Request) -> bool:
    headers = request.requestHeaders
    return headers.hasHeader(b"If-None-Match") or headers.hasHeader(b"If-Modified-Since")

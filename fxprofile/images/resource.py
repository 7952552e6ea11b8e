"""
What the images listener answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from fxprofile.images.memory_cache import HotPictures, Picture
from fxprofile.images.negotiation import Offers
from fxprofile.images.producer import Tap
from fxprofile.model.errors import (
    ApiError,
    BackendUnavailable,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ObjectNotFound,
    StorageError,
)
from fxprofile.model.keys import DEFAULT_AVATAR_ID, FORMATS, VARIANTS, is_image_name, public_key
from fxprofile.model.ports import ObjectInfo
from fxprofile.serving.channel import StreamingRequest
from fxprofile.serving.conditional import is_conditional, not_modified
from fxprofile.telemetry.metrics import Metrics

#: On every response: they keep a browser from taking it for anything but a picture.
HEADERS: Final = {
    b"X-Content-Type-Options": b"nosniff",
    b"Content-Security-Policy": b"default-src 'none'; sandbox",
    b"Cross-Origin-Resource-Policy": b"cross-origin",
    b"Access-Control-Allow-Origin": b"*",
}

_PREFIX: Final = b"/a/"
_ID_LENGTH: Final = len(DEFAULT_AVATAR_ID)
_VARIANTS: Final = {suffix: variant for variant, (suffix, _) in VARIANTS.items()}
_METHODS: Final = (b"GET", b"HEAD")

_log = Logger()


def picture_of(path: bytes) -> tuple[str, str] | None:
    """The avatar and the variant that a URL path names, or None if it names none."""
    name = path.removeprefix(_PREFIX).decode("latin-1")
    if not path.startswith(_PREFIX) or not is_image_name(name):
        return None
    return name[:_ID_LENGTH], _VARIANTS[name[_ID_LENGTH:]]


class ImagesResource(Resource):
    """
    ``GET|HEAD /a/{id}[_small|_large]``, and nothing else.

    :param pictures: the public bucket.
    :param offers: the formats that are in it.
    :param max_age: of the Cache-Control header, in seconds.
    :param clock: times the answers.
    :param metrics: where they are counted.
    """

    isLeaf = True

    def __init__(
        self,
        *,
        pictures: HotPictures,
        offers: Offers,
        max_age: int,
        clock: IReactorTime,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self._pictures = pictures
        self._offers = offers
        self._cache_control = f"public, max-age={max_age}".encode()
        self._clock = clock
        self._metrics = metrics

    def render(self, request: StreamingRequest) -> int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        request.notifyFinish().addBoth(self._count, request)
        work = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._refuse, request)
        work.addErrback(lambda failure: _log.failure("An answer was lost", failure=failure))
        return NOT_DONE_YET

    async def _answer(self, request: StreamingRequest) -> None:
        named = picture_of(request.path)
        if named is None:
            raise NotFound
        request.route = "/a/{id}"
        if request.method not in _METHODS:
            raise MethodNotAllowed(headers={"Allow": "GET, HEAD"})
        if self._offers.vary:
            request.setHeader(b"Vary", b"Accept")
        absent = []
        for form in self._forms(request, named[0]):
            key = public_key(*named, form)
            if self._offers.lacks(key):
                continue
            try:
                await self._answer_with(request, key, FORMATS[form][1])
            except ObjectNotFound:
                if form == "png":
                    raise
                absent.append(key)
            else:
                break
        for key in absent:
            self._offers.note_absence(key)

    def _forms(self, request: StreamingRequest, avatar_id: str) -> Sequence[str]:
        """The formats in which the client would have the picture, the best first."""
        if avatar_id == DEFAULT_AVATAR_ID:
            return ("png",)
        accept = request.requestHeaders.getRawHeaders(b"Accept", [])
        return self._offers.best_first(b",".join(accept).decode("latin-1"))

    async def _answer_with(self, request: StreamingRequest, key: str, media_type: str) -> None:
        """
        Answer with one object.

        :raises ObjectNotFound: if it is not there; then nothing was written.
        """
        if request.method == b"HEAD" or is_conditional(request.requestHeaders):
            info, source = await self._pictures.look(key)
            unchanged = not_modified(request.requestHeaders, etag=info.etag, modified=info.modified)
            if unchanged or request.method == b"HEAD":
                self._metrics.image_cache.labels(source).inc()
                self._set_headers(request, info, media_type)
                request.setResponseCode(304 if unchanged else 200)
                request.finish()
                return
        picture = await self._pictures.open(key)
        self._metrics.image_cache.labels(picture.source).inc()
        try:
            await self._send(request, picture, media_type)
        finally:
            await picture.body.aclose()

    async def _send(self, request: StreamingRequest, picture: Picture, media_type: str) -> None:
        """Write a picture: each piece is asked for when the one before has left our hands."""
        info, sent, tap = picture.info, 0, Tap()
        async for piece in picture.body:
            sent += len(piece)
            if sent > info.length:
                raise StorageError(f"get {info.key}: more than {info.length} bytes")
            if not request.startedWriting:
                # Not before: a bucket that fails at once leaves the answer open.
                self._set_headers(request, info, media_type)
                request.registerProducer(tap, True)
            request.write(piece)
            await tap.opened()
        if sent < info.length:
            raise StorageError(f"get {info.key}: {sent} of {info.length} bytes")
        if request.startedWriting:
            request.unregisterProducer()
        else:
            self._set_headers(request, info, media_type)
        request.finish()

    def _set_headers(self, request: StreamingRequest, info: ObjectInfo, media_type: str) -> None:
        request.setHeader(b"Content-Type", media_type.encode())
        request.setHeader(b"Content-Length", b"%d" % info.length)
        request.setHeader(b"Content-Disposition", b"inline")
        request.setHeader(b"Cache-Control", self._cache_control)
        request.setHeader(b"ETag", f'"{info.etag}"'.encode())
        request.setHeader(b"Last-Modified", datetimeToString(info.modified))

    def _refuse(self, failure: Failure, request: StreamingRequest) -> None:
        if request.channel is None:
            # Nobody waits any longer.
            failure.trap(CancelledError, StorageError)
        elif request.startedWriting:
            # A clean end would pass a part off as the whole.
            _log.warn("{path}: cut off: {error}", path=request.path, error=failure.value)
            request.channel.forceAbortClient()
        else:
            _write_error(request, _error_of(failure, request.path))

    def _count(self, outcome: object, request: StreamingRequest) -> None:
        method = request.method.decode("ascii") if request.method in _METHODS else "other"
        status = 499 if isinstance(outcome, Failure) else request.code
        self._metrics.requests.labels("images", method, request.route, status).inc()
        self._metrics.request_seconds.labels("images", request.route).observe(
            self._clock.seconds() - request.started_at
        )


def _error_of(failure: Failure, path: bytes) -> ApiError:
    """What a client is told of a failure; what it is not told is logged."""
    if isinstance(failure.value, ApiError):
        return failure.value
    if failure.check(ObjectNotFound):
        return NotFound()
    if failure.check(StorageError):
        _log.warn("{path}: {error}", path=path, error=failure.value)
        return BackendUnavailable()
    _log.failure("{path}", failure=failure, path=path)
    return InternalError()


def _write_error(request: StreamingRequest, error: ApiError) -> None:
    """Answer in the words of the API, for no cache to keep."""
    body = json.dumps(
        {
            "code": error.code,
            "errno": error.errno,
            "error": HTTPStatus(error.code).phrase,
            "message": error.text,
        }
    ).encode()
    request.setResponseCode(error.code)
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Content-Length", b"%d" % len(body))
    for name, value in error.headers.items():
        request.setHeader(name, value)
    request.write(body)
    request.finish()

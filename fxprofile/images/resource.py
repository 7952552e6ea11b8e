"""
The images listener: it serves user content on an origin of its own.

A picture has one URL in all formats.  PNG always exists.  Other formats are only for clients
that name them in the Accept header (RFC 9110, section 12.5.1): browsers send ``image/*`` even
for formats that they cannot show.  An avatar that was processed before a format was enabled
lacks it; that is cached for a while, so that the bucket is not asked for it each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.resource import Resource

from fxprofile.deferreds.producer import StreamProducer
from fxprofile.images.memory_cache import ObjectCache, OpenObject, read_default_avatar
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
from fxprofile.model.ports import IBucket, ObjectInfo
from fxprofile.serving.channel import (
    NOT_DONE_YET,
    StreamingRequest,
    StreamingSite,
    bad_request,
)
from fxprofile.serving.conditional import is_conditional, not_modified
from fxprofile.serving.connections import ConnectionLimits
from fxprofile.telemetry.metrics import Metrics

#: On every response: a browser must treat it as a picture and nothing else.
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Access-Control-Allow-Origin": "*",
}

#: How long the absence of an object is cached, in seconds.
ABSENT_SECONDS: Final = 60.0

#: How many absent objects are cached.
MAX_ABSENT: Final = 20_000

#: The length of an Accept header that is parsed, in bytes; with a longer one PNG is sent.
MAX_ACCEPT: Final = 512

_ID_LENGTH: Final = len(DEFAULT_AVATAR_ID)
_VARIANTS: Final = {suffix: variant for variant, (suffix, _) in VARIANTS.items()}
_METHODS: Final = (b"GET", b"HEAD")

_log = Logger()


def make_site(
    *,
    bucket: IBucket,
    max_age: int,
    max_stale: float = 0,
    clock: IReactorTime,
    metrics: Metrics,
    path: str = "/a/{id}",
    formats: tuple[str, ...] = ("png",),
    limits: ConnectionLimits | None = None,
) -> StreamingSite:
    """
    Make the protocol factory of the images listener.

    This reads the default avatar, which blocks for 15 KiB: call it before the reactor runs.

    :param bucket: the public bucket.
    :param max_age: the setting ``images.max_age``, in seconds.
    :param max_stale: the setting ``images.max_stale``, in seconds.
    :param clock: the reactor.
    :param path: that of the setting ``images.url``.
    :param formats: the setting ``crunch.formats``: the formats in the bucket.
    :param limits: which connections are accepted; all by default.
    :raises OSError: if the package is incomplete.
    """
    resource = ImagesResource(
        objects=ObjectCache(
            bucket=bucket, clock=clock, pinned=read_default_avatar(), max_stale=max_stale
        ),
        path=path,
        formats=formats,
        absent=TTLCache(MAX_ABSENT, ABSENT_SECONDS, clock.seconds),
        max_age=max_age,
        metrics=metrics,
    )
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return StreamingSite(
        resource,
        reactor=clock,
        bad_request=bad_request(headers),
        too_long=bad_request(headers, status=414),
        limits=limits,
    )


def parse_path(path: bytes, template: str = "/a/{id}") -> tuple[str, str] | None:
    """
    Return the avatar and the variant that a URL path names, or None if it names none.

    :param template: the path of the setting ``images.url``.
    """
    prefix, _, suffix = template.partition("{id}")
    text = path.decode("latin-1")
    name = text.removeprefix(prefix).removesuffix(suffix)
    if text != f"{prefix}{name}{suffix}" or not is_image_name(name):
        return None
    return name[:_ID_LENGTH], _VARIANTS[name[_ID_LENGTH:]]


@attrs.define(kw_only=True, eq=False, slots=False)
class ImagesResource(Resource):
    """
    ``GET|HEAD`` of the path of ``images.url`` with ``{id}[_small|_large]``, and nothing else.

    :param objects: the public bucket.
    :param path: that of the setting ``images.url``.
    :param formats: the setting ``crunch.formats``: the formats in the bucket.
    :param absent: the keys of objects that are absent, though their PNG exists.
    :param max_age: of the Cache-Control header, in seconds.
    """

    isLeaf = True

    _objects: ObjectCache
    _path: str
    _formats: tuple[str, ...]
    _absent: TTLCache[str, bool]
    _max_age: int
    _metrics: Metrics

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        if len(self._formats) > 1:
            # Its parser takes 2 MB, which a process that serves only PNGs does without.
            from fxprofile.images.negotiation import preferred_formats

            self._preferred_formats = preferred_formats
        for method in ("GET", "HEAD"):
            statuses = (200, 304, 404, 500, 503)
            self._metrics.expect_requests("images", method, self._path, statuses)

    def render(self, request: StreamingRequest) -> int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        request.notifyFinish().addBoth(request.count, self._metrics, "images", _METHODS)
        work = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._answer_error, request)
        work.addErrback(lambda failure: _log.failure("Response failed", failure=failure))
        return NOT_DONE_YET

    async def _answer(self, request: StreamingRequest) -> None:
        named = parse_path(request.path, self._path)
        if named is None:
            raise NotFound
        request.route = self._path
        if request.method not in _METHODS:
            raise MethodNotAllowed(headers={"Allow": "GET, HEAD"})
        formats: Sequence[str] = ("png",)
        if len(self._formats) > 1:
            request.setHeader(b"Vary", b"Accept")
            if named[0] != DEFAULT_AVATAR_ID:
                accept = b",".join(request.requestHeaders.getRawHeaders(b"Accept", []))
                if len(accept) <= MAX_ACCEPT:
                    formats = self._preferred_formats(accept.decode("latin-1"), self._formats)
        absent = {}
        for form in formats:
            key = public_key(*named, form)
            if key in self._absent:
                continue
            try:
                await self._answer_with(request, key, FORMATS[form][1])
                break
            except ObjectNotFound:
                if form == "png":
                    raise
                absent[key] = True
        self._absent.update(absent)

    async def _answer_with(self, request: StreamingRequest, key: str, media_type: str) -> None:
        """
        Answer with one object.

        :raises ObjectNotFound: if it does not exist; nothing is written then.
        """
        if request.method == b"HEAD" or is_conditional(request.requestHeaders):
            info, source = await self._objects.head(key)
            unchanged = not_modified(request.requestHeaders, etag=info.etag, modified=info.modified)
            if unchanged or request.method == b"HEAD":
                self._metrics.image_cache.labels(source).inc()
                self._set_headers(request, info, media_type)
                request.setResponseCode(304 if unchanged else 200)
                request.finish()
                return
        opened = await self._objects.open(key)
        self._metrics.image_cache.labels(opened.source).inc()
        try:
            await self._send(request, opened, media_type)
        finally:
            await opened.body.aclose()

    async def _send(self, request: StreamingRequest, opened: OpenObject, media_type: str) -> None:
        """Write an object; each piece is read when the client has taken the one before."""
        producer = StreamProducer()
        async for piece in opened.pieces():
            if not request.startedWriting:
                # Only now, so that a body that fails at once can be answered with an error.
                self._set_headers(request, opened.info, media_type)
                request.registerProducer(producer, True)
            size = request.channel.piece_size()
            for at in range(0, max(1, len(piece)), size):
                request.write(piece[at : at + size])
                await producer.writable()
        if request.startedWriting:
            request.unregisterProducer()
        else:
            self._set_headers(request, opened.info, media_type)
        request.finish()

    def _set_headers(self, request: StreamingRequest, info: ObjectInfo, media_type: str) -> None:
        request.setHeader(b"Content-Type", media_type.encode())
        request.setHeader(b"Content-Length", b"%d" % info.length)
        request.setHeader(b"Content-Disposition", b"inline")
        request.setHeader(b"Cache-Control", f"public, max-age={self._max_age}".encode())
        request.setHeader(b"ETag", f'"{info.etag}"'.encode())
        request.setHeader(b"Last-Modified", datetimeToString(info.modified))

    def _answer_error(self, failure: Failure, request: StreamingRequest) -> None:
        if request.channel is None:
            # The client has disconnected.
            failure.trap(CancelledError, StorageError)
        elif request.startedWriting:
            # A regular end would make a truncated response look complete.
            _log.warn("Aborted {path}: {error}", path=request.path, error=failure.value)
            request.channel.forceAbortClient()
        else:
            error = _error_of(failure, request.path)
            for name, value in error.headers.items():
                request.setHeader(name, value)
            request.finish_json(error.code, error.body)


def _error_of(failure: Failure, path: bytes) -> ApiError:
    """Return the error for the client; what it does not tell is logged."""
    if isinstance(failure.value, ApiError):
        return failure.value
    if failure.check(ObjectNotFound):
        return NotFound()
    if failure.check(StorageError):
        _log.warn("Cannot serve {path}: {error}", path=path, error=failure.value)
        return BackendUnavailable()
    _log.failure("Cannot serve {path}", failure=failure, path=path)
    return InternalError()

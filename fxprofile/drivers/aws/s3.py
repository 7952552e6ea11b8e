"""
The S3 driver of :class:`fxprofile.model.ports.IBucket`, for Amazon S3 and compatible servers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.tasks import all_done
from fxprofile.drivers.aws.client.client import AwsClient, AwsResponse, AwsService
from fxprofile.drivers.aws.client.errors import AwsError, PayloadLengthError
from fxprofile.drivers.aws.client.payload import SignedPayload, StreamPayload, TrailerPayload
from fxprofile.drivers.aws.client.wire import Members
from fxprofile.http_client.errors import HttpError
from fxprofile.http_client.response import Response
from fxprofile.model.errors import BodyMismatch, ObjectNotFound, StorageError
from fxprofile.model.keys import PROBE, check_key_prefix, key_parts
from fxprofile.model.ports import Body, IBucket, NewObject, ObjectInfo
from fxprofile.settings.model import Settings

#: S3's limit on the objects of one delete or list.
BATCH: Final = 1000

#: Attempts of a delete, for the objects that S3 failed to delete.
DELETE_ATTEMPTS: Final = 3

#: Bytes of the longest body that is read into memory, so that it can be signed and sent again.
MAX_BUFFERED: Final = 1 << 16

#: The options of calls that a client waits for: it gets an error within ten seconds.
WHILE_WAITING: Final[Mapping[str, Any]] = {"timeout": 4.0, "max_attempts": 2, "budget": 8.0}

#: How uploads are signed, by the setting ``storage.payload``.
PAYLOADS: Final = {"unsigned": StreamPayload, "trailer": TrailerPayload, "signed": SignedPayload}

_MD5 = re.compile(r"[0-9a-f]{32}")

_log = Logger()


def s3_bucket(settings: Settings, client: AwsClient, name: str) -> S3Bucket:
    """Return the bucket of this name, configured by ``storage`` and ``aws``."""
    storage = settings.storage
    public = name == storage.public_bucket
    put_settings = {
        "CacheControl": f"public, max-age={settings.images.max_age}" if public else "no-store",
        "ServerSideEncryption": storage.encryption,
        "SSEKMSKeyId": storage.kms_key_id,
    }
    endpoint_url = storage.endpoint_url or settings.aws.endpoint_url
    return S3Bucket(
        AwsService(client, "s3", endpoint_url, addressing=storage.addressing),
        name,
        {name: value for name, value in put_settings.items() if value},
        storage.payload,
        # The web role puts originals, and the images role reads pictures.
        waited_for=("GetObject", "HeadObject") if public else ("PutObject",),
    )


@implementer(IBucket)
@attrs.define(eq=False, slots=False, repr=False)
class S3Bucket:
    """
    An S3 bucket.

    :param service: S3.
    :param bucket: its name.
    :param put_settings: further parameters of ``PutObject``, by AWS's names.
    :param payload: a name of :data:`PAYLOADS`, or ``auto``.  That is unsigned, which every server
        understands, because presigned URLs need it; the digest in the response is compared.
        Only objects that are encrypted by KMS have none, so they are followed by a checksum.
    :param waited_for: the operations that clients wait for.
    """

    _service: AwsService
    _bucket: str
    _put_settings: Mapping[str, str] = attrs.field(factory=dict)
    _payload: str = "auto"
    _waited_for: Collection[str] = attrs.field(default=(), kw_only=True)
    _put_only: bool = attrs.field(default=False, init=False)

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Put an object.

        A body in memory, or of at most :data:`MAX_BUFFERED` bytes, is signed, and sent again
        if necessary.  A longer one is streamed, once, as ``storage.payload`` says.  Either way
        the digest that S3 reports is compared.

        An aborted put leaves nothing, unless S3 already had the whole body.  The caller
        closes the body.
        """
        key_parts(key)
        parameters: dict[str, object] = {
            "Bucket": self._bucket,
            "Key": key,
            "ContentType": content_type,
            **self._put_settings,
        }
        with _storage_errors():
            if isinstance(body, BytesBody) or length <= MAX_BUFFERED:
                payload = StreamPayload(body, length)
                parameters["Body"] = b"".join([piece async for piece in payload])
                response = await self._call("PutObject", parameters)
            else:
                payload = self._stream(body, length)
                response = await self._call("PutObject", parameters, payload=payload)
        if not _is_intact(response, payload):
            try:
                await self.delete(keys=[key])
            except StorageError as error:
                _log.error("Cannot remove a damaged object: {error}", error=error)
            raise StorageError(f"s3:PutObject {self._bucket}/{key}: S3 reports a different digest")

    async def put_all(self, *, objects: Sequence[NewObject]) -> None:
        """Put objects on connections of their own; S3 has no request for several puts."""
        await all_done(
            self.put(
                key=each.key,
                body=BytesBody(each.data),
                length=len(each.data),
                content_type=each.content_type,
            )
            for each in objects
        )

    def _stream(self, body: Body, length: int) -> StreamPayload:
        kind = self._payload
        if kind == "auto":
            # The ETag of an object that is encrypted by KMS is no digest to compare.
            by_kms = self._put_settings.get("ServerSideEncryption", "").startswith("aws:kms")
            kind = "trailer" if by_kms else "unsigned"
        return PAYLOADS[kind](body, length)

    async def get(self, *, key: str, as_file: bool = False) -> tuple[ObjectInfo, Body]:
        key_parts(key)
        with _storage_errors():
            response = await self._call(
                "GetObject", {"Bucket": self._bucket, "Key": key}, stream_response=True
            )
        call = f"s3:GetObject {self._bucket}/{key}"
        info = _described(key, response)
        body = _S3Body(response.body, call, info.length, _digest(response))
        if not info.etag:
            await body.aclose()
            raise StorageError(f"{call}: the response has no ETag, so it is not from S3")
        return info, body

    async def head(self, *, key: str) -> ObjectInfo:
        key_parts(key)
        with _storage_errors():
            response = await self._call("HeadObject", {"Bucket": self._bucket, "Key": key})
        return _described(key, response)

    async def delete(self, *, keys: Sequence[str]) -> None:
        for key in keys:
            key_parts(key)
        with _storage_errors():
            if len(keys) == 1:
                await self._service.call("DeleteObject", {"Bucket": self._bucket, "Key": keys[0]})
                return
            for start in range(0, len(keys), BATCH):
                await self._delete_batch(list(keys[start : start + BATCH]))

    async def _delete_batch(self, keys: list[str]) -> None:
        for attempt in range(1, DELETE_ATTEMPTS + 1):
            objects = [{"Key": key} for key in keys]
            response = await self._service.call(
                "DeleteObjects",
                {"Bucket": self._bucket, "Delete": {"Objects": objects, "Quiet": True}},
            )
            errors = [e for e in response.members.get("Errors", []) if e.get("Code") != "NoSuchKey"]
            if not errors:
                return
            refused = [e for e in errors if e.get("Code") not in ("InternalError", "SlowDown")]
            if refused or attempt == DELETE_ATTEMPTS:
                worst = (refused or errors)[0]
                raise StorageError(
                    f"s3:DeleteObjects {self._bucket}/{worst.get('Key')}: {worst.get('Code')}: "
                    f"{worst.get('Message')} ({len(errors)} of {len(keys)} objects)"
                )
            keys = [e["Key"] for e in errors]

    async def list(self, *, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        check_key_prefix(prefix)
        check_key_prefix(after)
        if not after.startswith(prefix):
            # The gateway of JuiceFS refuses such a start.
            if after > prefix:
                return []
            after = ""
        found: list[ObjectInfo] = []
        while len(found) < limit:
            parameters = {
                "Bucket": self._bucket,
                "Prefix": prefix,
                "StartAfter": after,
                "MaxKeys": min(BATCH, limit - len(found)),
            }
            with _storage_errors():
                response = await self._service.call("ListObjectsV2", parameters)
            page = [entry for entry in response.members.get("Contents", ()) if "Key" in entry]
            # JuiceFS lists empty folders, and so do buckets in which a console has made some.
            found += [_listed(e) for e in page if not e["Key"].endswith("/")]
            if not page or not response.members.get("IsTruncated"):
                break
            after = page[-1]["Key"]
        return found

    async def check(self) -> None:
        """
        Check the bucket with a list, or with a put if the role may only put.

        :raises StorageError: if the bucket cannot be used.
        """
        refusal = ""
        if not self._put_only:
            try:
                # Unlike that of a HEAD, the refusal of a list states its reason.
                await self._service.call(
                    "ListObjectsV2", {"Bucket": self._bucket, "Prefix": PROBE, "MaxKeys": 1}
                )
                return
            except AwsError as error:
                if error.status != 403:
                    raise StorageError(str(error)) from error
                refusal = f"{error}; "
        try:
            await self.put(key=PROBE, body=BytesBody(b""), length=0, content_type="text/plain")
        except StorageError as error:
            raise StorageError(f"{refusal}{error}") from error
        self._put_only = True

    async def _call(self, operation: str, parameters: Members, **options: Any) -> AwsResponse:
        if operation in self._waited_for:
            options |= WHILE_WAITING
        return await self._service.call(operation, parameters, **options)

    def __repr__(self) -> str:
        return f"<S3Bucket {self._bucket!r}>"


@attrs.define(eq=False, slots=False)
class _S3Body:
    """
    The bytes of an object: all of them, or an error.

    :param call: for the text of an error.
    :param missing: the bytes that have not been read.
    :param digest: their MD5 in hex, if it is known.
    """

    _body: Response | None
    _call: str
    _missing: int
    _digest: str | None
    _md5: hashlib._Hash = attrs.field(
        init=False, factory=partial(hashlib.md5, usedforsecurity=False)
    )

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._body is None:
            raise StopAsyncIteration
        try:
            piece = await anext(self._body)
        except StopAsyncIteration:
            self._body = None
            if self._missing:
                size = "short" if self._missing > 0 else "long"
                text = f"{self._call}: the body is {abs(self._missing)} bytes too {size}"
                raise StorageError(text) from None
            if self._digest not in (None, self._md5.hexdigest()):
                raise StorageError(f"{self._call}: the body does not match its ETag") from None
            raise
        except HttpError as error:
            self._body = None
            raise StorageError(f"{self._call}: {error}") from error
        self._missing -= len(piece)
        if self._digest is not None:
            self._md5.update(piece)
        return piece

    async def aclose(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            await body.aclose()


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except PayloadLengthError as error:
        raise BodyMismatch(str(error)) from error
    except AwsError as error:
        if error.code in ("NoSuchKey", "404"):
            raise ObjectNotFound(str(error)) from error
        raise StorageError(str(error)) from error


def _is_intact(response: AwsResponse, payload: StreamPayload) -> bool:
    """Whether the digests that S3 reports, if any, are those of the bytes sent."""
    crc32 = response.headers.get(TrailerPayload.TRAILER, payload.crc32)
    return crc32 == payload.crc32 and _digest(response) in (None, payload.md5)


def _digest(response: AwsResponse) -> str | None:
    """
    Return the MD5 of an object in hex; None if its ETag is something else, as it is for
    objects that are encrypted by KMS or were put in parts.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    etag = response.headers.get("etag", "").strip('"')
    encryption = response.headers.get("x-amz-server-side-encryption", "AES256")
    return etag if encryption == "AES256" and _MD5.fullmatch(etag) else None


def _described(key: str, response: AwsResponse) -> ObjectInfo:
    """Return what S3 reports of an object in a response of its own."""
    headers = response.headers
    modified = 0.0
    with suppress(KeyError, ValueError):
        modified = parsedate_to_datetime(headers["last-modified"]).timestamp()
    return ObjectInfo(
        key=key,
        # A body of unknown length is rejected at its end, because it is too long.
        length=int(headers.get("content-length", 0)),
        etag=headers.get("etag", "").strip('"'),
        modified=modified,
    )


def _listed(members: Members) -> ObjectInfo:
    """Return what S3 reports of an object in an entry of a list."""
    modified = members.get("LastModified")
    return ObjectInfo(
        key=members["Key"],
        length=members.get("Size") or 0,
        etag=str(members.get("ETag", "")).strip('"'),
        modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
    )

"""
Buckets of Amazon S3, and of whatever speaks its protocol.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.bodies import PIECE, Digests, PlainStream, TrailerStream
from fxprofile.drivers.aws.call import Answer, Stream
from fxprofile.drivers.aws.client import Addressing, AwsClient
from fxprofile.drivers.aws.errors import AwsError
from fxprofile.drivers.aws.shared import client_of
from fxprofile.drivers.aws.signing import UNSIGNED_PAYLOAD, UNSIGNED_TRAILER
from fxprofile.drivers.aws.transport import ReplyBody, Unreachable
from fxprofile.model.errors import ObjectNotFound, StorageError
from fxprofile.model.object_keys import check_prefix, key_parts
from fxprofile.model.ports import Body, IBucket, ObjectInfo
from fxprofile.settings.model import Settings

#: S3's limit on the objects of one delete or list.
BATCH: Final = 1000

#: Tries of a delete, for the objects that S3 says it could not delete.
DELETE_TRIES: Final = 3

#: What a bucket is written to that may only be put to, to see whether it can be used.
PROBE: Final = "probe"

_MD5 = re.compile(r"[0-9a-f]{32}")

_log = Logger()


def s3_bucket(settings: Settings, name: str, *, reactor: Any, threads: Threads) -> S3Bucket:
    """The bucket of this name, as the settings say."""
    storage = settings.storage
    public = name == storage.public_bucket
    return S3Bucket(
        client_of(settings, reactor=reactor, threads=threads),
        name,
        endpoint_url=storage.endpoint_url or settings.aws.endpoint_url,
        addressing=storage.addressing,
        cache_control=f"public, max-age={settings.images.max_age}" if public else "no-store",
        encryption=storage.encryption,
        kms_key_id=storage.kms_key_id,
    )


@implementer(IBucket)
class S3Bucket(Service):
    """
    A bucket of S3.

    :param name: of the bucket.
    :param endpoint_url: in place of AWS's own.
    :param addressing: whether the bucket is in the path or in the host.
    :param cache_control: that objects are put with.
    :param encryption: ``AES256``, ``aws:kms`` or ``aws:kms:dsse`` at rest; what the bucket
        has for a default if left out.
    :param kms_key_id: of the encryption.
    """

    def __init__(
        self,
        client: AwsClient,
        name: str,
        *,
        endpoint_url: str | None = None,
        addressing: Addressing = "auto",
        cache_control: str | None = None,
        encryption: str | None = None,
        kms_key_id: str | None = None,
    ) -> None:
        self._client = client
        self._service = client.service("s3", endpoint_url=endpoint_url, addressing=addressing)
        self._bucket = name
        self._put_only = False
        self._encrypted_by_kms = (encryption or "").startswith("aws:kms")
        settings = {
            "CacheControl": cache_control,
            "ServerSideEncryption": encryption,
            "SSEKMSKeyId": kms_key_id,
        }
        self._put_settings = {name: value for name, value in settings.items() if value}

    def startService(self) -> None:
        super().startService()
        self._client.acquire()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._client.release())

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Put an object.

        Bytes that are all there, or fit into one piece, are signed, and sent again if need
        be.  Others are sent as they come, once, and are guarded by TLS or by a checksum
        behind them.  Either way S3 has to have got what was sent.

        A put that is given up leaves nothing, unless S3 had all of it by then.  The caller
        closes the body.
        """
        key_parts(key)
        digests = Digests(body, length)
        parameters: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key,
            "ContentType": content_type,
            **self._put_settings,
        }
        with _storage_errors():
            if isinstance(body, BytesBody) or length <= PIECE:
                data = bytearray()
                while piece := await digests.next():
                    data += piece
                parameters["Body"] = bytes(data)
                answer = await self._service.call("PutObject", parameters)
            else:
                stream, headers = await self._stream(digests, length)
                answer = await self._service.call(
                    "PutObject", parameters, stream=stream, headers=headers
                )
        if not self._is_right(answer, digests):
            await self._remove_damaged(key)
            raise StorageError(f"s3:PutObject {self._bucket}/{key}: S3 got other bytes than ours")

    async def _stream(self, digests: Digests, length: int) -> tuple[Stream, Mapping[str, str]]:
        endpoint = await self._service.endpoint(self._bucket)
        # What is encrypted by KMS has no digest for a tag.
        if endpoint.url.startswith("https:") and not self._encrypted_by_kms:
            return Stream(PlainStream(digests, length), UNSIGNED_PAYLOAD), {}
        return Stream(TrailerStream(digests, length), UNSIGNED_TRAILER), {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(length),
            "X-Amz-Sdk-Checksum-Algorithm": "CRC32",
            "X-Amz-Trailer": TrailerStream.TRAILER,
        }

    def _is_right(self, answer: Answer, digests: Digests) -> bool:
        """Whether what S3 says of an object is true of what was sent."""
        if answer.headers.get(TrailerStream.TRAILER, digests.crc32) != digests.crc32:
            return False
        return _digest(answer) in (None, digests.md5)

    async def _remove_damaged(self, key: str) -> None:
        try:
            await self.delete(keys=[key])
        except StorageError as error:
            _log.error("A damaged object stays: {error}", error=error)

    async def get(self, *, key: str) -> tuple[ObjectInfo, Body]:
        key_parts(key)
        with _storage_errors():
            answer = await self._service.call(
                "GetObject", {"Bucket": self._bucket, "Key": key}, streamed_answer=True
            )
        what = f"s3:GetObject {self._bucket}/{key}"
        info = _object_info(key, answer.members.get("ContentLength"), answer.members)
        body = _S3Body(answer.body, what, info.length, _digest(answer))
        if not info.etag:
            await body.aclose()
            raise StorageError(f"{what}: what came has no ETag, so it is not from S3")
        return info, body

    async def head(self, *, key: str) -> ObjectInfo:
        key_parts(key)
        with _storage_errors():
            answer = await self._service.call("HeadObject", {"Bucket": self._bucket, "Key": key})
        return _object_info(key, answer.members.get("ContentLength"), answer.members)

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
        for last in (False,) * (DELETE_TRIES - 1) + (True,):
            objects = [{"Key": key} for key in keys]
            answer = await self._service.call(
                "DeleteObjects",
                {"Bucket": self._bucket, "Delete": {"Objects": objects, "Quiet": True}},
            )
            errors = [e for e in answer.members.get("Errors", []) if e.get("Code") != "NoSuchKey"]
            if not errors:
                return
            refused = [e for e in errors if e.get("Code") not in ("InternalError", "SlowDown")]
            if refused or last:
                worst = (refused or errors)[0]
                raise StorageError(
                    f"s3:DeleteObjects {self._bucket}/{worst.get('Key')}: {worst.get('Code')}: "
                    f"{worst.get('Message')} ({len(errors)} of {len(keys)} objects)"
                )
            keys = [e["Key"] for e in errors]

    async def list(self, *, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        check_prefix(prefix)
        check_prefix(after)
        found: list[ObjectInfo] = []
        while len(found) < limit:
            with _storage_errors():
                answer = await self._service.call(
                    "ListObjectsV2",
                    {
                        "Bucket": self._bucket,
                        "Prefix": prefix,
                        "StartAfter": after,
                        "MaxKeys": min(BATCH, limit - len(found)),
                    },
                )
            page = [
                _object_info(entry["Key"], entry.get("Size"), entry)
                for entry in answer.members.get("Contents", ())
                if "Key" in entry
            ]
            found += page
            if not page or not answer.members.get("IsTruncated"):
                break
            after = page[-1].key
        return found

    async def check(self) -> None:
        """
        See whether the bucket can be used: by a look at it, or by a put if that is all that
        is allowed, as to the web role.
        """
        refusal = ""
        if not self._put_only:
            try:
                # Unlike the answer to a HEAD, a refusal of this one has a reason.
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

    def __repr__(self) -> str:
        return f"<S3Bucket {self._bucket!r}>"


class _S3Body:
    """
    The bytes of an object, all of them or an error.

    :param digest: their MD5, if that is known.
    """

    def __init__(self, body: ReplyBody | None, what: str, length: int, digest: str | None) -> None:
        self._body = body
        self._what = what
        self._left = length
        self._digest = digest
        self._md5 = hashlib.md5(usedforsecurity=False)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._body is None:
            raise StopAsyncIteration
        try:
            piece = await anext(self._body)
        except StopAsyncIteration:
            self._body = None
            if self._left:
                text = f"{self._what}: the body is {abs(self._left)} bytes too "
                raise StorageError(text + ("short" if self._left > 0 else "long")) from None
            if self._digest not in (None, self._md5.hexdigest()):
                raise StorageError(f"{self._what}: these are not the bytes of the ETag") from None
            raise
        except Unreachable as error:
            self._body = None
            raise StorageError(f"{self._what}: {error}") from error
        self._left -= len(piece)
        if self._digest is not None:
            self._md5.update(piece)
        return piece

    async def aclose(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            await body.aclose()


@contextmanager
def _storage_errors() -> Any:
    try:
        yield
    except AwsError as error:
        if error.code in ("NoSuchKey", "404"):
            raise ObjectNotFound(str(error)) from error
        raise StorageError(str(error)) from error


def _tag(members: Mapping[str, Any]) -> str:
    return str(members.get("ETag", "")).strip('"')


def _digest(answer: Answer) -> str | None:
    """
    The MD5 of an object in hex, None if its tag is something else: what is encrypted by KMS,
    or was put in parts, has such a tag.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    tag = _tag(answer.members)
    encryption = answer.headers.get("x-amz-server-side-encryption", "AES256")
    return tag if encryption == "AES256" and _MD5.fullmatch(tag) else None


def _object_info(key: str, length: int | None, members: Mapping[str, Any]) -> ObjectInfo:
    modified = members.get("LastModified")
    return ObjectInfo(
        key=key,
        # A body of unknown length is refused at its end, because it has too many bytes.
        length=length or 0,
        etag=_tag(members),
        modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
    )

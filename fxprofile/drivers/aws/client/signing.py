"""
Credentials, and Signature Version 4.

botocore finds the credentials in the order that all AWS tools have: environment, web
identity, profile, process, container, instance metadata, with roles assumed on the way.  It
blocks, so it runs in a thread.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import attrs
from botocore.exceptions import BotoCoreError, ClientError
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.errors import NoCredentials
from fxprofile.drivers.aws.client.wire import AwsRequest

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

#: An access key that expires within so many seconds is not used before a refresh.
EXPIRY_MARGIN: Final = 60

#: Seconds that a call waits for credentials.  The search continues for later calls.
PATIENCE: Final = 15.0

#: Seconds that botocore waits for a connection to STS and for its response, and its attempts:
#: its defaults add up to five minutes.
STS_TIMEOUT: Final = 5
STS_ATTEMPTS: Final = 2

#: Seconds between two refreshes of a key that is still valid, and between two searches
#: because AWS refused a key.
REFRESH_INTERVAL: Final = 10.0

#: The form of a time in a signature.
SIGV4_TIMESTAMP: Final = "%Y%m%dT%H%M%SZ"

#: The SHA-256 of nothing.
EMPTY_SHA256_HASH: Final = hashlib.sha256().hexdigest()

#: Headers that are not signed, because proxies change them.
UNSIGNED: Final = frozenset({"User-Agent", "Expect"})

#: How an URL may end that names the default port, which is not in the Host header.
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_log = Logger()


@attrs.frozen
class AccessKey:
    """One access key.  Its representation shows no secret."""

    access_key: str
    secret_key: str = attrs.field(repr=False)
    token: str | None = attrs.field(default=None, repr=False)


def find_credentials(region: str) -> Credentials | None:
    """
    Search botocore's standard credential chain; this blocks.

    :param region: of the STS endpoint that is asked for roles.
    """
    # botocore.session imports half of botocore, which the process needs only now.
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    session.set_config_variable("region", region)
    session.set_default_client_config(
        Config(
            connect_timeout=STS_TIMEOUT,
            read_timeout=STS_TIMEOUT,
            retries={"total_max_attempts": STS_ATTEMPTS},
        )
    )
    return session.get_credentials()


@attrs.define(eq=False, slots=False, repr=False)
class CredentialChain:
    """
    The current access key, searched once and refreshed before it expires.

    :param threads: where the search runs.
    :param region: of the STS endpoint that is asked for roles.
    :param find: the blocking search for credentials in a region.
    """

    _threads: Threads
    _clock: IReactorTime
    _region: str
    _find: Callable[[str], Credentials | None] = find_credentials
    _source: Credentials | None = attrs.field(default=None, init=False)
    _key: AccessKey | None = attrs.field(default=None, init=False)
    _searches: SingleFlight[str, None] = attrs.field(factory=SingleFlight, init=False)
    _invalidated: float = attrs.field(default=float("-inf"), init=False)
    _refreshed: float = attrs.field(default=float("-inf"), init=False)

    async def get(self) -> AccessKey:
        """
        Return the access key to sign with now.

        :raises NoCredentials: if there is none, or the search takes too long.
        """
        if self._key is None or self._expires_within(EXPIRY_MARGIN):
            try:
                # The search continues without its waiters.
                await detached(self._refresh()).addTimeout(PATIENCE, self._clock)
            except WaitTimeout:
                raise NoCredentials(
                    f"no AWS credentials: the configured source did not respond within "
                    f"{PATIENCE:g} s"
                ) from None
        elif self._expires_within(None) and self._is_due(self._refreshed):
            # The key is still valid: the call does not wait for the refresh.
            detached(self._refresh()).addErrback(
                lambda failure: _log.warn(
                    "Cannot refresh AWS credentials that expire soon: {error}",
                    error=failure.value,
                )
            )
        if self._key is None:
            raise NoCredentials("no AWS credentials")
        return self._key

    def invalidate(self, key: AccessKey) -> None:
        """Search the chain again for the next call, because AWS refused this key."""
        if key == self._key and self._is_due(self._invalidated):
            self._invalidated = self._clock.seconds()
            self._source = self._key = None

    def _is_due(self, last: float) -> bool:
        return self._clock.seconds() - last >= REFRESH_INTERVAL

    def _expires_within(self, seconds: float | None) -> bool:
        """Whether the key expires so soon; with None, within botocore's advisory period."""
        needed = getattr(self._source, "refresh_needed", None)
        return needed is not None and bool(needed(seconds))

    async def _refresh(self) -> None:
        """Join the search, or start one."""
        await self._searches.join("search", self._search)

    async def _search(self) -> None:
        self._refreshed = self._clock.seconds()
        try:
            source, found = await self._threads.run(self._search_in_thread, self._source)
        except Exception as error:
            # Each kind of source fails with exceptions of its own.
            raise NoCredentials(f"no AWS credentials: {_describe(error):.300}") from None
        if found is None:
            raise NoCredentials(
                "no AWS credentials: the standard chain found none; it looks for "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, and the role of the "
                "task or the instance"
            )
        self._source = source
        self._key = AccessKey(found.access_key, found.secret_key, found.token)

    def _search_in_thread(
        self, source: Credentials | None
    ) -> tuple[Credentials | None, ReadOnlyCredentials | None]:
        source = source or self._find(self._region)
        return source, source.get_frozen_credentials() if source is not None else None


def _describe(error: Exception) -> str:
    """The cause in one line, without any content of the source that was read."""
    if isinstance(error, (BotoCoreError, ClientError)):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return type(error).__name__


def _canonical(request: AwsRequest, service: str, digest: str) -> tuple[str, str]:
    """Return the names of the signed headers, and the text that is signed for a request."""
    parts = urlsplit(request.url)
    path = parts.path or "/"
    if service != "s3":
        # Only S3 signs paths as they are sent.
        path = quote(path, safe="/~")
    query = sorted(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
    signed = {
        name.lower(): " ".join(value.split())
        for name, value in request.headers.items()
        if name not in UNSIGNED
    }
    signed["host"] = parts.netloc.removesuffix(_DEFAULT_PORTS[parts.scheme])
    ordered = sorted(signed.items())
    names = ";".join([name for name, _ in ordered])
    lines = [
        request.method,
        path,
        "&".join([f"{name}={value}" for name, value in query]),
        *[f"{name}:{value}" for name, value in ordered],
        "",
        names,
        digest,
    ]
    return names, "\n".join(lines)


@lru_cache(maxsize=16)
def _signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    """Return the key of a day, which takes four digests to derive."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(
    request: AwsRequest,
    *,
    key: AccessKey,
    service: str,
    region: str,
    seconds: float,
    content_sha256: str | None = None,
) -> Callable[[bytes], str]:
    """
    Add the headers of a signature to a request.

    botocore's signer derives its key for each request and writes tokens to its debug log; this one
    takes a tenth of its time.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

    :param service: its signing name.
    :param seconds: AWS's time, since the epoch.
    :param content_sha256: signed in place of the payload's SHA-256, for a payload that is not
        in the request.
    :returns: a function that signs the chunks of such a payload, in order.
    """
    moment = time.strftime(SIGV4_TIMESTAMP, time.gmtime(seconds))
    digest = content_sha256 or hashlib.sha256(request.body).hexdigest()
    headers = request.headers
    headers.pop("Authorization", None)
    headers["X-Amz-Date"] = moment
    if key.token:
        headers["X-Amz-Security-Token"] = key.token
    if service == "s3":
        headers["X-Amz-Content-SHA256"] = digest
    names, canonical = _canonical(request, service, digest)
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    secret = _signing_key(key.secret_key, moment[:8], region, service)

    def signature(*lines: str) -> str:
        return hmac.digest(secret, "\n".join(lines).encode(), "sha256").hex()

    canonical_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
    latest = signature("AWS4-HMAC-SHA256", moment, scope, canonical_sha256)
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.access_key}/{scope}, SignedHeaders={names},"
        f" Signature={latest}"
    )

    def sign_chunk(chunk: bytes) -> str:
        # It covers the signature of the chunk before.
        nonlocal latest
        digest = hashlib.sha256(chunk).hexdigest()
        latest = signature(
            "AWS4-HMAC-SHA256-PAYLOAD", moment, scope, latest, EMPTY_SHA256_HASH, digest
        )
        return latest

    return sign_chunk

"""
Credentials, and Signature Version 4.

botocore finds the credentials in the order that all AWS tools have: environment, web
identity, profile, process, container, instance metadata, with roles assumed on the way.  It
blocks, so it runs in a thread.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.errors import NoCredentials

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


class _Signer(SigV4Auth):
    """
    botocore's signer with a given time, and without its debug log, which holds tokens.
    """

    def add_auth(self, request: AWSRequest) -> None:
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        signature = self.signature(self.string_to_sign(request, canonical), request)
        request.context["signature"] = signature
        self._inject_signature_to_request(request, signature)

    def payload(self, request: AWSRequest) -> str:
        return request.context.get("payload") or super().payload(request)

    def sign_chunk(self, request: AWSRequest, chunk: bytes) -> str:
        """Return the signature of the next chunk, which covers that of the chunk before."""
        lines = (
            "AWS4-HMAC-SHA256-PAYLOAD",
            request.context["timestamp"],
            self.credential_scope(request),
            request.context["signature"],
            hashlib.sha256().hexdigest(),
            hashlib.sha256(chunk).hexdigest(),
        )
        signature: str = self.signature("\n".join(lines), request)
        request.context["signature"] = signature
        return signature


class _S3Signer(_Signer, S3SigV4Auth):
    """The variant of S3: the payload's digest in a header, and paths unchanged."""


def sign(
    request: AWSRequest,
    *,
    key: AccessKey,
    service: str,
    region: str,
    seconds: float,
    content_sha256: str | None = None,
) -> Callable[[bytes], str]:
    """
    Add the headers of a signature to a request.

    :param service: its signing name.
    :param seconds: AWS's time, since the epoch.
    :param content_sha256: signed in place of the payload's SHA-256, for a payload that is not
        in the request.
    :returns: a function that signs the chunks of such a payload, in order.
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    request.context["timestamp"] = moment.strftime(SIGV4_TIMESTAMP)
    request.context["payload"] = content_sha256
    signer = (_S3Signer if service == "s3" else _Signer)(key, service, region)
    signer.add_auth(request)
    return partial(signer.sign_chunk, request)

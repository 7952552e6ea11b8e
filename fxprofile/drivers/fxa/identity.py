"""The identity of Firefox Accounts: its OAuth server and its auth server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import ClassVar, Final, TypeVar
from urllib.parse import urljoin

import attrs
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.drivers.fxa.access_tokens import AccessTokens, KeySet
from fxprofile.drivers.fxa.tokens import (
    SKEW,
    VerifiedToken,
    digest,
    is_token,
    token_cache,
    unverified_claims,
)
from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.upstream import (
    JsonResponse,
    Upstream,
    UpstreamFailure,
    as_number,
    as_text,
    as_texts,
    within,
)
from fxprofile.model.errors import (
    AccountUnknown,
    AuthUnavailable,
    CacheError,
    InvalidToken,
    OAuthUnavailable,
    UpstreamRefused,
    UpstreamThrottled,
)
from fxprofile.model.keys import is_uid
from fxprofile.model.ports import IIdentity, IRevocations
from fxprofile.model.profiles import Account, Credentials, read_account
from fxprofile.settings.model import IdentitySettings
from fxprofile.telemetry.metrics import Metrics

T = TypeVar("T")

#: The auth server's errno of an unknown account.
_UNKNOWN_ACCOUNT: Final = 102

#: The errnos of both servers that reject a token: unknown account, invalid token, invalid
#: parameter, unauthorized and expired token.
_REJECTED: Final = (_UNKNOWN_ACCOUNT, 108, 109, 110, 111, 115)

#: Seconds to wait if a server that allows no more requests does not say how long; and at most.
_RETRY_AFTER: Final = 30
_MAX_RETRY_AFTER: Final = 86_400

#: How many users' revocations this process remembers.
_MAX_REVOKED: Final = 100_000


@implementer(IIdentity)
@attrs.define(eq=False, slots=False, repr=False)
class FxaIdentity:
    """
    Verifies tokens at the OAuth server, and reads accounts from the auth server.

    Concurrent requests with one token share a verification.  Responses are accepted only in
    their documented form.

    :param agent: sends the requests.
    :param clock: of seconds since the epoch.
    :param settings: the section ``identity``.
    :param revocations: shared with other web processes; None if they share nothing.
    """

    _log = Logger()
    servers: ClassVar[tuple[str, ...]] = ("oauth", "auth")

    _agent: HttpAgent
    _clock: IReactorTime
    _metrics: Metrics
    _settings: IdentitySettings
    _revocations: IRevocations | None = None
    _verifications: SingleFlight[bytes, Credentials] = attrs.field(factory=SingleFlight, init=False)
    # Tokens that were verified or issued up to this time are not trusted, by user.
    _revoked: LRUCache[str, float] = attrs.field(
        factory=partial(LRUCache, _MAX_REVOKED), init=False
    )

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        self._oauth = Upstream("OAuth server", self._agent, timeout=settings.timeout)
        self._auth = Upstream("auth server", self._agent, timeout=settings.timeout)
        self._tokens = token_cache(self._clock, settings.token_cache_seconds)
        # A process that asks the server about every token need not know of revocations.
        if not settings.token_cache_seconds and settings.jwks_url is None:
            self._revocations = None
        self._access_tokens = None
        if settings.jwks_url is not None:
            # Half of the time, so that there is some left to ask about the token.
            jwks = Upstream("JWKS", self._agent, timeout=settings.timeout / 2)
            self._access_tokens = AccessTokens(
                KeySet(jwks, settings.jwks_url, self._clock, self._metrics),
                self._clock,
                issuer=settings.issuer or "",
                audience=settings.audience,
                is_trusted=self._is_trusted,
            )

    async def verify(self, *, token: str) -> Credentials:
        """See :meth:`fxprofile.model.ports.IIdentity.verify`."""
        if not is_token(token):
            raise InvalidToken("malformed token")
        key = digest(token)
        known = self._tokens.get(key)
        if known is not None and await self._is_trusted(known.credentials.uid, known.asked_at):
            return known.credentials
        return await self._verifications.join(key, lambda: self._verify(token, key))

    async def _is_trusted(self, uid: str, since: float) -> bool:
        """Return whether no token of a user was revoked since a time, as far as is known."""
        if since <= self._revoked.get(uid, float("-inf")):
            return False
        if self._revocations is None:
            return True
        try:
            revoked_at = await self._revocations.revoked_at(uid=uid)
        except CacheError as error:
            self._metrics.upstream_errors.labels("revocations").inc()
            self._log.warn("Cannot read revocations; verifying each token: {error}", error=error)
            return False
        return revoked_at is None or since > revoked_at + SKEW

    async def _verify(self, token: str, key: bytes) -> Credentials:
        asked_at = self._clock.seconds()
        try:
            asking = self._ask(token)
            if self._access_tokens is not None:
                # There may be two requests.
                asking = within(self._clock, self._settings.timeout, asking)
            credentials = await asking
        except UpstreamFailure as failure:
            raise OAuthUnavailable(str(failure)) from None
        self._tokens[key] = VerifiedToken(credentials, asked_at)
        return credentials

    async def _ask(self, token: str) -> Credentials:
        claims = unverified_claims(token)
        if claims is not None and self._access_tokens is not None:
            verified = await self._access_tokens.verify(token)
            if verified is not None:
                return verified
        response = await self._oauth.request(
            "POST", f"{self._settings.oauth_url}/verify", body={"token": token}
        )
        credentials = _credentials(response, self._clock.seconds())
        if claims is None:
            return credentials
        # The server has verified the token, but its response does not say when it expires.
        try:
            return replace(credentials, expires_at=as_number(claims.get("exp")))
        except ValueError:
            return credentials

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        """See :meth:`fxprofile.model.ports.IIdentity.account`."""
        if not is_token(token):
            raise AccountUnknown("malformed token")
        try:
            response = await self._auth.request(
                "GET",
                f"{self._settings.auth_url}/account/profile",
                headers={"Authorization": f"Bearer {token}"},
            )
            _check_account(response, self._clock.seconds())
            account, unknown = read_account(response.members or {}, credentials.client_id)
        except ValueError as error:
            raise AuthUnavailable(f"auth server: inconsistent response: {error}") from None
        except UpstreamFailure as failure:
            raise AuthUnavailable(str(failure)) from None
        except AccountUnknown:
            # What is cached of this token may be outdated.
            self._tokens.pop(digest(token), None)
            raise
        self._metrics.unknown_fields.inc(len(unknown))
        return account

    async def invalidate_tokens(self, *, uid: str) -> None:
        """See :meth:`fxprofile.model.ports.IIdentity.invalidate_tokens`."""
        self._revoked[uid] = self._clock.seconds() + SKEW
        if self._revocations is not None:
            await self._revocations.revoke(uid=uid)

    async def check(self, *, server: str) -> bool:
        """See :meth:`fxprofile.model.ports.IIdentity.check`."""
        upstream, url = {
            "oauth": (self._oauth, self._settings.oauth_url),
            "auth": (self._auth, self._settings.auth_url),
        }[server]
        try:
            response = await upstream.request("GET", urljoin(url, "/__lbheartbeat__"))
        except UpstreamFailure:
            return False
        # A server without this path of Dockerflow responds with 404 or 501.
        return response.status < 500 or response.status == 501


def _credentials(response: JsonResponse, now: float) -> Credentials:
    members = response.members
    _check_not_throttled("OAuth server", response, now)
    if response.status in (400, 401, 403, 404) and _is_rejection(response):
        raise InvalidToken(
            f"the OAuth server responded {response.status}, errno {_errno(members or {})}"
        )
    if response.status != 200 or members is None:
        raise UpstreamFailure(f"OAuth server: unexpected response, status {response.status}")
    try:
        return Credentials(
            uid=_uid(members.get("user")),
            scopes=_optional(members, "scope", as_texts) or (),
            profile_changed_at=_optional(members, "profile_changed_at", _milliseconds),
            client_id=_optional(members, "client_id", as_text),
        )
    except ValueError as error:
        raise UpstreamFailure(f"OAuth server: inconsistent response: {error}") from None


def _is_rejection(response: JsonResponse) -> bool:
    """
    Return whether the body of a 4xx from the OAuth server is an error about the token.

    A 403 or 404 may also be that of a proxy, or of a wrong ``identity.oauth_url``.
    """
    members = response.members
    if members is None or response.status in (400, 401):
        return members is not None
    return _errno(members) in _REJECTED or members.get("error") == "invalid_token"


def _check_account(response: JsonResponse, now: float) -> None:
    """Raise the error of a response of the auth server that has no account."""
    status, members = response.status, response.members
    errno = _errno(members or {})
    if status == 401 or (400 <= status < 500 and errno == _UNKNOWN_ACCOUNT):
        raise AccountUnknown(f"the auth server responded {status}, errno {errno}")
    _check_not_throttled("auth server", response, now)
    if 400 <= status < 500:
        raise UpstreamRefused(f"the auth server responded {status}, errno {errno}")
    if status != 200 or members is None:
        raise UpstreamFailure(f"auth server: unexpected response, status {status}")


def _check_not_throttled(server: str, response: JsonResponse, now: float) -> None:
    """
    Raise UpstreamThrottled for a 429.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    if response.status != 429:
        return
    text = response.retry_after.strip()
    try:
        seconds = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        seconds = _RETRY_AFTER
    wait = math.ceil(min(max(seconds, 1), _MAX_RETRY_AFTER))
    raise UpstreamThrottled(f"the {server} responded 429", wait)


def _optional(members: Mapping[str, object], name: str, read: Callable[[object], T]) -> T | None:
    """
    Return a member that may be missing or null.

    :raises ValueError: with the name of the member, and nothing of its value.
    """
    value = members.get(name)
    if value is None:
        return None
    try:
        return read(value)
    except ValueError:
        raise ValueError(f"{name} is a {type(value).__name__}") from None


def _uid(value: object) -> str:
    if not isinstance(value, str) or not is_uid(value):
        raise ValueError("user is not a uid")
    return value


def _milliseconds(value: object) -> int:
    return int(as_number(value))


def _errno(members: Mapping[str, object]) -> int | None:
    errno = members.get("errno")
    return errno if type(errno) is int else None

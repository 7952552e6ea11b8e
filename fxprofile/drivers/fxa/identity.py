"""The identity of Firefox Accounts: its OAuth server and its auth server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
)
from fxprofile.model.keys import is_uid
from fxprofile.model.ports import IIdentity, IRevocations
from fxprofile.model.profiles import Account, Credentials
from fxprofile.settings.model import IdentitySettings
from fxprofile.telemetry.metrics import Metrics

T = TypeVar("T")

#: The auth server's errno of an unknown account.
_UNKNOWN_ACCOUNT: Final = 102

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
        self._oauth = self._upstream("OAuth server", settings.timeout)
        self._auth = self._upstream("auth server", settings.timeout)
        self._tokens = token_cache(self._clock, settings.token_cache_seconds)
        # A process that asks the server about every token need not know of revocations.
        if not settings.token_cache_seconds and settings.jwks_url is None:
            self._revocations = None
        self._access_tokens = None
        if settings.jwks_url is not None:
            # Half of the time, so that there is some left to ask about the token.
            jwks = self._upstream("JWKS", settings.timeout / 2)
            self._access_tokens = AccessTokens(
                KeySet(jwks, settings.jwks_url, self._clock, self._metrics),
                self._clock,
                issuer=settings.issuer or "",
                audience=settings.audience,
                is_trusted=self._is_trusted,
            )

    def _upstream(self, name: str, timeout: float) -> Upstream:
        return Upstream(name, self._agent, timeout=timeout)

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
        credentials = _credentials(response)
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
            return _account(response)
        except UpstreamFailure as failure:
            raise AuthUnavailable(str(failure)) from None
        except AccountUnknown:
            # What is cached of this token may be outdated.
            self._tokens.pop(digest(token), None)
            raise

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


def _credentials(response: JsonResponse) -> Credentials:
    members = response.members
    if response.status in (400, 401) and members is not None:
        raise InvalidToken(f"the OAuth server responded {response.status}, errno {_errno(members)}")
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


def _account(response: JsonResponse) -> Account:
    members = response.members
    errno = _errno(members or {})
    if response.status == 401 or (400 <= response.status < 500 and errno == _UNKNOWN_ACCOUNT):
        raise AccountUnknown(f"the auth server responded {response.status}, errno {errno}")
    if 400 <= response.status < 500:
        raise UpstreamRefused(f"the auth server responded {response.status}, errno {errno}")
    if response.status != 200 or members is None:
        raise UpstreamFailure(f"auth server: unexpected response, status {response.status}")
    try:
        level = _optional(members, "authenticatorAssuranceLevel", as_number)
        return Account(
            email=_optional(members, "email", as_text),
            locale=_optional(members, "locale", as_text),
            amr_values=_optional(members, "authenticationMethods", as_texts),
            two_factor=None if level is None else level >= 2,
        )
    except ValueError as error:
        raise UpstreamFailure(f"auth server: inconsistent response: {error}") from None


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

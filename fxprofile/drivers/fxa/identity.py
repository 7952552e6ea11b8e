"""The identity of Firefox Accounts: its OAuth server and its auth server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import HTTPConnectionPool
from zope.interface import implementer

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.drivers.fxa.tokens import SKEW, TokenCache, digest, is_token, read_jwt
from fxprofile.http_client.upstream import (
    Answer,
    Upstream,
    UpstreamFailure,
    as_number,
    as_text,
    as_texts,
    client_for,
    pool_for,
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
from fxprofile.settings.model import IdentitySettings, Settings
from fxprofile.telemetry.metrics import Metrics

T = TypeVar("T")

#: The auth server's number for an account that is not there.
_UNKNOWN_ACCOUNT = 102


def fxa_identity(
    settings: Settings, reactor: Any, metrics: Metrics, revocations: IRevocations | None = None
) -> FxaIdentity:
    """
    The identity that the settings describe, with connections of its own.

    :param revocations: shared with other web processes; None if they share nothing.
    """
    pool = pool_for(reactor)
    client = client_for(reactor, pool, settings.identity.timeout)
    return FxaIdentity(
        client, reactor, metrics, settings.identity, pool=pool, revocations=revocations
    )


@implementer(IIdentity)
class FxaIdentity(Service):
    """
    Asks the OAuth server what a token is good for, and the auth server whose it is.

    Concurrent requests with one token verify it once.  What a server says is believed
    only if it is of the form that it documents.

    :param client: sends the requests, and follows no redirects when told so.
    :param clock: of seconds since the epoch.
    :param settings: the servers, how long they may take, and how long a verified token
        is trusted.
    :param pool: the connections of the client, closed when the service stops.
    :param revocations: what web processes tell each other of tokens, if they do.
    """

    name = "identity"
    _log = Logger()
    servers: Final = ("oauth", "auth")

    def __init__(
        self,
        client: HTTPClient,
        clock: IReactorTime,
        metrics: Metrics,
        settings: IdentitySettings,
        *,
        pool: HTTPConnectionPool | None = None,
        revocations: IRevocations | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._timeout = settings.timeout
        self._oauth_url = settings.oauth_url
        self._auth_url = settings.auth_url
        self._pool = pool
        self._oauth = Upstream("OAuth server", client, clock, timeout=settings.timeout)
        self._auth = Upstream("auth server", client, clock, timeout=settings.timeout)
        self._verifying: SingleFlight[bytes, Credentials] = SingleFlight()
        self._trusted = (
            TokenCache(clock, seconds=settings.token_cache_seconds)
            if settings.token_cache_seconds
            else None
        )
        # Only who trusts tokens has to know which of them no longer to trust.
        trusts = self._trusted is not None or settings.jwks_url is not None
        self._revocations = revocations if trusts else None
        self._access_tokens = None
        if settings.jwks_url is not None:
            from fxprofile.drivers.fxa.access_tokens import AccessTokens, KeySet

            # Half of the time, so that there is some left to ask about the token.
            jwks = Upstream("JWKS", client, clock, timeout=settings.timeout / 2)
            self._access_tokens = AccessTokens(
                KeySet(jwks, settings.jwks_url, clock, metrics),
                clock,
                issuer=settings.issuer or "",
                audience=settings.audience,
                still_good=self._still_good,
            )

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._pool is None:
            return succeed(None)
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def verify(self, *, token: str) -> Credentials:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        if not is_token(token):
            raise InvalidToken("not of the form of a token")
        key = digest(token)
        known = self._trusted.get(key) if self._trusted is not None else None
        if known is not None and await self._still_good(known.credentials.uid, known.asked):
            return known.credentials
        return await self._verifying.join(key, lambda: self._verify(token, key))

    async def _still_good(self, uid: str, since: float) -> bool:
        """Whether no process has heard that tokens of this user from that time are not."""
        if self._revocations is None:
            return True
        try:
            revoked_at = await self._revocations.revoked_at(uid=uid)
        except CacheError as error:
            self._metrics.upstream_errors.labels("revocations").inc()
            self._log.warn("Asking about each token: {error}", error=error)
            return False
        return revoked_at is None or since > revoked_at + SKEW

    async def _verify(self, token: str, key: bytes) -> Credentials:
        try:
            if self._trusted is None:
                return await within(self._clock, self._timeout, self._ask(token))
            return await self._trusted.fill(
                key, lambda: within(self._clock, self._timeout, self._ask(token))
            )
        except UpstreamFailure as failure:
            raise OAuthUnavailable(str(failure)) from None

    async def _ask(self, token: str) -> Credentials:
        jwt = read_jwt(token)
        if jwt is not None and self._access_tokens is not None:
            credentials = await self._access_tokens.verify(token)
            if credentials is not None:
                return credentials
        answer = await self._oauth.ask("POST", f"{self._oauth_url}/verify", body={"token": token})
        credentials = _credentials(answer)
        if jwt is None:
            return credentials
        # The server has vouched for the token, but does not say when it ends.
        try:
            return replace(credentials, expires_at=as_number(jwt.claims.get("exp")))
        except ValueError:
            return credentials

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        if not is_token(token):
            raise AccountUnknown("not of the form of a token")
        try:
            answer = await self._auth.ask(
                "GET",
                f"{self._auth_url}/account/profile",
                headers={"Authorization": f"Bearer {token}"},
            )
            return _account(answer)
        except UpstreamFailure as failure:
            raise AuthUnavailable(str(failure)) from None
        except AccountUnknown:
            # Whatever was known of this token, it may no longer hold.
            if self._trusted is not None:
                self._trusted.drop(digest(token))
            raise

    async def invalidate_tokens(self, *, uid: str) -> None:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        if self._trusted is not None:
            self._trusted.forget(uid)
        if self._access_tokens is not None:
            self._access_tokens.distrust(uid)
        if self._revocations is not None:
            await self._revocations.revoke(uid=uid)

    async def check(self, *, server: str) -> bool:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        upstream, url = {
            "oauth": (self._oauth, self._oauth_url),
            "auth": (self._auth, self._auth_url),
        }[server]
        try:
            answer = await upstream.ask("GET", urljoin(url, "/__lbheartbeat__"))
        except UpstreamFailure:
            return False
        # Whether it has this path of Dockerflow or not: it must not say that it is broken.
        return answer.status < 500 or answer.status == 501


def _credentials(answer: Answer) -> Credentials:
    members = answer.members
    if answer.status in (400, 401) and members is not None:
        raise InvalidToken(f"the OAuth server says {answer.status}, errno {_errno(members)}")
    if answer.status != 200 or members is None:
        raise UpstreamFailure(f"OAuth server: unexpected answer, status {answer.status}")
    try:
        return Credentials(
            uid=_uid(members.get("user")),
            scopes=_optional(members, "scope", as_texts) or (),
            profile_changed_at=_optional(members, "profile_changed_at", _milliseconds),
            client_id=_optional(members, "client_id", as_text),
        )
    except ValueError as error:
        raise UpstreamFailure(f"OAuth server: it lies: {error}") from None


def _account(answer: Answer) -> Account:
    members = answer.members
    errno = _errno(members or {})
    if answer.status == 401 or (400 <= answer.status < 500 and errno == _UNKNOWN_ACCOUNT):
        raise AccountUnknown(f"the auth server says {answer.status}, errno {errno}")
    if 400 <= answer.status < 500:
        raise UpstreamRefused(f"the auth server says {answer.status}, errno {errno}")
    if answer.status != 200 or members is None:
        raise UpstreamFailure(f"auth server: unexpected answer, status {answer.status}")
    try:
        level = _optional(members, "authenticatorAssuranceLevel", as_number)
        return Account(
            email=_optional(members, "email", as_text),
            locale=_optional(members, "locale", as_text),
            amr_values=_optional(members, "authenticationMethods", as_texts),
            two_factor=None if level is None else level >= 2,
        )
    except ValueError as error:
        raise UpstreamFailure(f"auth server: it lies: {error}") from None


def _optional(members: Mapping[str, Any], name: str, read: Callable[[object], T]) -> T | None:
    """
    A member that may be left out, or null.

    :raises ValueError: with the name of the member, and nothing that it holds.
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
        raise ValueError("user is no uid")
    return value


def _milliseconds(value: object) -> int:
    return int(as_number(value))


def _errno(members: Mapping[str, Any]) -> int | None:
    errno = members.get("errno")
    return errno if type(errno) is int else None

"""
Read and write profiles.

A field is shown only to a token whose scopes allow it, whatever the identity servers
sent.  What was read is kept for the two sets of scopes that nearly all tokens have, and
for no other, so that no kept field is shown to a token that may not see it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.aio import detached
from fxprofile.errors import CacheError, DriverError
from fxprofile.interfaces import IIdentity, IProfileCache, IProfileStore, IQueue
from fxprofile.keys import DEFAULT_AVATAR_ID, image_url
from fxprofile.metrics import Metrics
from fxprofile.model import Account, Avatar, Credentials, Profile
from fxprofile.scopes import Scopes

#: The sets of scopes whose profiles are kept, by what the cache calls them.
CACHED_SCOPES = {
    frozenset({"profile"}): "profile",
    frozenset({"profile:display_name", "profile:email", "profile:uid"}): "basic",
}

#: The scopes that allow each field, any of them.
FIELD_SCOPES = {
    "uid": ("profile:uid",),
    "email": ("profile:email", "email"),
    "locale": ("profile:locale",),
    "amrValues": ("profile:amr",),
    "twoFactorAuthentication": ("profile:amr",),
    "displayName": ("profile:display_name",),
    "avatar": ("profile:avatar",),
    "avatarDefault": ("profile:avatar",),
    "sub": ("openid",),
}

_FROM_ACCOUNT = ("email", "locale", "amrValues", "twoFactorAuthentication")


@dataclass(frozen=True)
class ProfileView:
    """
    A profile as one token may see it.

    :ivar modified: when it last changed, in seconds since the epoch.
    :ivar token_changed_at: what the token said of this, in milliseconds.
    """

    fields: dict[str, Any]
    etag: str
    modified: float
    token_changed_at: int | None


class Changes:
    """
    Tells whoever keeps or follows profiles that one has changed.

    :param updates: the queue that other services read, if there is one.
    """

    _log = Logger()

    def __init__(self, *, cache: IProfileCache, updates: IQueue | None, metrics: Metrics) -> None:
        self._cache = cache
        self._updates = updates
        self._metrics = metrics
        self._sending: set[Deferred[None]] = set()

    async def announce(self, uid: str) -> None:
        """Drop the kept profile of a user, and tell the updates queue, in its own time."""
        await self.forget(uid)
        if self._updates is not None:
            sending = detached(self._send(self._updates, uid))
            self._sending.add(sending)
            sending.addBoth(lambda _: self._sending.discard(sending))

    async def forget(self, uid: str) -> None:
        """Drop the kept profile of a user."""
        try:
            await self._cache.drop(uid=uid)
        except CacheError as error:
            self._survived("cache", error)

    async def _send(self, updates: IQueue, uid: str) -> None:
        try:
            await updates.send(body=json.dumps({"Message": json.dumps({"uid": uid})}))
        except DriverError as error:
            self._survived("updates", error)

    def _survived(self, upstream: str, error: Exception) -> None:
        self._metrics.upstream_errors.labels(upstream).inc()
        self._log.warn("Going on without the {upstream}: {error}", upstream=upstream, error=error)


class Profiles:
    """
    Reads profiles.

    :param image_template: the setting ``images.url``.
    :param monogram_url: where monograms are, ending in a slash; None for no monograms.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        identity: IIdentity,
        store: IProfileStore,
        cache: IProfileCache,
        changes: Changes,
        metrics: Metrics,
        clock: IReactorTime,
        image_template: str,
        monogram_url: str | None,
    ) -> None:
        self._identity = identity
        self._store = store
        self._cache = cache
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._image_template = image_template
        self._monogram_url = monogram_url
        self._fetching: dict[tuple[str, str], list[Deferred[ProfileView]]] = {}

    async def view(self, *, token: str, credentials: Credentials) -> ProfileView | None:
        """
        The profile of a user, as this token may see it.

        :returns: None if it may not see any field.
        :raises DriverError: if it could not be read.
        :raises AccountUnknown: if there no longer is such an account.
        """
        scopes = Scopes(credentials.scopes)
        allowed = frozenset(f for f, needed in FIELD_SCOPES.items() if scopes.allows(*needed))
        if not allowed:
            return None
        kind = CACHED_SCOPES.get(frozenset(credentials.scopes))
        if kind is None:
            return await self._read(token, credentials, allowed)
        kept = await self._kept(credentials, kind)
        if kept is not None:
            return kept
        return await self._fetch_once(token, credentials, allowed, kind)

    async def _fetch_once(
        self, token: str, credentials: Credentials, allowed: frozenset[str], kind: str
    ) -> ProfileView:
        key = (credentials.uid, kind)
        if key in self._fetching:
            waiter: Deferred[ProfileView] = Deferred()
            self._fetching[key].append(waiter)
            return await waiter
        self._fetching[key] = []
        return await detached(self._fetch(token, credentials, allowed, kind))

    async def _fetch(
        self, token: str, credentials: Credentials, allowed: frozenset[str], kind: str
    ) -> ProfileView:
        key = (credentials.uid, kind)
        try:
            view = await self._read(token, credentials, allowed)
            await self._keep(credentials, kind, view)
        except BaseException as error:
            for waiter in self._fetching.pop(key):
                if not waiter.called:
                    waiter.errback(error)
            raise
        for waiter in self._fetching.pop(key):
            if not waiter.called:
                waiter.callback(view)
        return view

    async def _read(
        self, token: str, credentials: Credentials, allowed: frozenset[str]
    ) -> ProfileView:
        account = Account()
        if allowed.intersection(_FROM_ACCOUNT):
            account = await self._identity.account(token=token, credentials=credentials)
        profile = await self._store.profile(uid=credentials.uid)
        known: dict[str, Any] = {
            "uid": credentials.uid,
            "sub": credentials.uid,
            "email": account.email,
            "locale": account.locale,
            "amrValues": list(account.amr_values) if account.amr_values is not None else None,
            "twoFactorAuthentication": account.two_factor,
            "displayName": profile.display_name,
            "avatarDefault": profile.avatar_id is None,
        }
        visible_email = account.email if "email" in allowed else None
        known["avatar"] = self.avatar_url(profile, visible_email)
        fields = {f: v for f, v in known.items() if f in allowed and v is not None}
        modified = max(profile.changed_at, (credentials.profile_changed_at or 0) / 1000)
        return ProfileView(
            fields=fields,
            etag=hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32],
            modified=modified,
            token_changed_at=credentials.profile_changed_at,
        )

    async def _kept(self, credentials: Credentials, kind: str) -> ProfileView | None:
        try:
            text = await self._cache.get(uid=credentials.uid, variant=kind)
        except CacheError as error:
            self._without_cache(error)
            return None
        if text is None:
            return None
        view = ProfileView(**json.loads(text))
        if (credentials.profile_changed_at or 0) > (view.token_changed_at or 0):
            return None
        return view

    async def _keep(self, credentials: Credentials, kind: str, view: ProfileView) -> None:
        try:
            await self._cache.set(uid=credentials.uid, variant=kind, value=json.dumps(asdict(view)))
        except CacheError as error:
            self._without_cache(error)

    def _without_cache(self, error: CacheError) -> None:
        self._metrics.upstream_errors.labels("cache").inc()
        self._log.warn("Going on without the cache: {error}", error=error)

    async def email(self, *, token: str, credentials: Credentials) -> str | None:
        """The e-mail address of an account, which the caller knows to be allowed."""
        account: Account = await self._identity.account(token=token, credentials=credentials)
        return account.email

    async def avatar(
        self, *, token: str, credentials: Credentials
    ) -> tuple[Mapping[str, Any], Avatar | None]:
        """
        The present avatar of a user, and a newer upload that is not ready, if there is
        one.
        """
        profile = await self._store.profile(uid=credentials.uid)
        latest = await self._store.latest(uid=credentials.uid)
        email = None
        if (
            profile.avatar_id is None
            and not profile.display_name
            and self._monogram_url is not None
            and Scopes(credentials.scopes).allows(*FIELD_SCOPES["email"])
        ):
            email = await self.email(token=token, credentials=credentials)
        url = self.avatar_url(profile, email)
        answer = {
            "id": profile.avatar_id or DEFAULT_AVATAR_ID,
            "avatar": url,
            "avatarDefault": profile.avatar_id is None,
            "url": url,
        }
        return answer, latest

    def avatar_url(self, profile: Profile, email: str | None) -> str:
        """
        Where the avatar of a user is.

        :param email: the address of the user, if the token may see it: a user who has
            neither avatar nor name gets its first letter.
        """
        if profile.avatar_id is not None:
            return image_url(self._image_template, profile.avatar_id)
        first = (profile.display_name or email or "")[:1].upper()[:1]
        if self._monogram_url is not None and first.isalnum():
            return self._monogram_url + quote(first)
        return image_url(self._image_template, DEFAULT_AVATAR_ID)

    async def display_name(self, uid: str) -> str | None:
        """The display name of a user."""
        profile: Profile = await self._store.profile(uid=uid)
        return profile.display_name

    async def set_display_name(self, uid: str, name: str | None) -> None:
        """Set or, with None, unset the display name of a user."""
        await self._store.set_display_name(uid=uid, name=name, now=self._clock.seconds())
        await self._changes.announce(uid)

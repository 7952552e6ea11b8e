"""
Read and write profiles.

A field is shown only to a token whose scopes allow it, whatever the identity servers
sent.  What was read is kept for the two sets of scopes that nearly all tokens have, and
for no other, so that no kept field is shown to a token that may not see it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.deferreds.tasks import detached
from fxprofile.model.avatars import Avatar
from fxprofile.model.errors import AccountUnknown, CacheError, UpstreamRefused
from fxprofile.model.keys import DEFAULT_AVATAR_ID, image_url, initial
from fxprofile.model.ports import IIdentity, IProfileCache, IProfileStore
from fxprofile.model.profiles import Account, Credentials, Profile
from fxprofile.profiles.invalidation import Changes, Reading
from fxprofile.profiles.scopes import Scopes
from fxprofile.telemetry.metrics import Metrics

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


@dataclass
class _Fetch:
    """A reading that others wait for."""

    reading: Reading
    token_changed_at: int
    waiting: list[Deferred[ProfileView]] = field(default_factory=list)


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
        self._fetching: dict[tuple[str, str], _Fetch] = {}

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
        """Read a profile, or wait for somebody else who reads the very same one."""
        fetch = self._fetching.get((credentials.uid, kind))
        if fetch is not None and fetch.token_changed_at < (credentials.profile_changed_at or 0):
            fetch.reading.stale = True
        # Who comes after a change must not be told what was before it.
        if fetch is not None and not fetch.reading.stale:
            waiter: Deferred[ProfileView] = Deferred()
            fetch.waiting.append(waiter)
            try:
                return await waiter
            except (AccountUnknown, UpstreamRefused):
                # That was said of the other one's token.
                return await self._read(token, credentials, allowed)
        return await detached(self._fetch(token, credentials, allowed, kind))

    async def _fetch(
        self, token: str, credentials: Credentials, allowed: frozenset[str], kind: str
    ) -> ProfileView:
        key = (credentials.uid, kind)
        with self._changes.reading(credentials.uid) as reading:
            fetch = _Fetch(reading, credentials.profile_changed_at or 0)
            self._fetching[key] = fetch
            try:
                # Other processes may change it, which only the cache hears of.
                generation = await self._generation(credentials)
                view = await self._read(token, credentials, allowed)
                if generation is not None and not reading.stale:
                    await self._keep(credentials, kind, view, generation)
                    if reading.stale:
                        # The change may have dropped it before it was there.
                        await self._changes.drop(credentials.uid)
            except BaseException as error:
                self._end(key, fetch, error)
                raise
            self._end(key, fetch, view)
            return view

    def _end(
        self, key: tuple[str, str], fetch: _Fetch, outcome: ProfileView | BaseException
    ) -> None:
        # After a change there may be a newer one in its place.
        if self._fetching.get(key) is fetch:
            del self._fetching[key]
        for waiter in fetch.waiting:
            if waiter.called:
                continue
            if isinstance(outcome, BaseException):
                # In each place where it is raised it would grow.
                traceback = outcome.__traceback__
                waiter.errback(Failure(outcome))
                outcome.__traceback__ = traceback
            else:
                waiter.callback(outcome)

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
        names = (known[field] for field in ("displayName", "email") if field in allowed)
        known["avatar"] = self.avatar_url(profile, *names)
        fields = {f: v for f, v in known.items() if f in allowed and v is not None}
        modified = max(profile.changed_at, (credentials.profile_changed_at or 0) / 1000)
        return ProfileView(
            fields=fields,
            etag=hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32],
            modified=modified,
            token_changed_at=credentials.profile_changed_at,
        )

    async def _kept(self, credentials: Credentials, kind: str) -> ProfileView | None:
        if not await self._changes.heard(credentials.uid):
            return None
        try:
            text = await self._cache.get(uid=credentials.uid, variant=kind)
        except CacheError as error:
            self._without_cache(error)
            return None
        if text is None:
            return None
        try:
            view = ProfileView(**json.loads(text))
            outdated = (credentials.profile_changed_at or 0) > (view.token_changed_at or 0)
        except (ValueError, TypeError):
            # Another version of this program may share the cache.
            return None
        return None if outdated else view

    async def _generation(self, credentials: Credentials) -> str | None:
        try:
            return await self._cache.generation(uid=credentials.uid)
        except CacheError as error:
            self._without_cache(error)
            return None

    async def _keep(
        self, credentials: Credentials, kind: str, view: ProfileView, generation: str
    ) -> None:
        value = json.dumps(asdict(view))
        try:
            await self._cache.set(
                uid=credentials.uid, variant=kind, value=value, generation=generation
            )
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
    ) -> tuple[dict[str, Any], Avatar | None]:
        """
        The present avatar of a user, and a newer upload that is not ready, if there is
        one.
        """
        profile = await self._store.profile(uid=credentials.uid)
        latest = await self._store.latest(uid=credentials.uid)
        url = self.avatar_url(profile, await self._monogram_name(profile, token, credentials))
        answer = {
            "id": profile.avatar_id or DEFAULT_AVATAR_ID,
            "avatar": url,
            "avatarDefault": profile.avatar_id is None,
            "url": url,
        }
        selected = latest
        if profile.avatar_id is not None and (latest is None or latest.id != profile.avatar_id):
            selected = await self._store.avatar(avatar_id=profile.avatar_id)
        if profile.avatar_id is not None and selected is not None and selected.placeholder:
            answer["placeholder"] = selected.placeholder
        return answer, latest

    async def _monogram_name(
        self, profile: Profile, token: str, credentials: Credentials
    ) -> str | None:
        """What this token may see of the name of a user, if the avatar needs it."""
        scopes = Scopes(credentials.scopes)
        if profile.avatar_id is not None or self._monogram_url is None:
            return None
        if profile.display_name and scopes.allows(*FIELD_SCOPES["displayName"]):
            return profile.display_name
        if scopes.allows(*FIELD_SCOPES["email"]):
            return await self.email(token=token, credentials=credentials)
        return None

    def avatar_url(self, profile: Profile, *names: str | None) -> str:
        """
        Where the avatar of a user is.

        :param names: the name and the address of the user, as far as the token may see
            them: a user without an avatar gets the first letter of the first of them.
        """
        if profile.avatar_id is not None:
            return image_url(self._image_template, profile.avatar_id)
        letter = initial(next((name for name in names if name), ""))
        if self._monogram_url is not None and letter is not None:
            return self._monogram_url + quote(letter)
        return image_url(self._image_template, DEFAULT_AVATAR_ID)

    async def display_name(self, uid: str) -> str | None:
        """The display name of a user."""
        profile: Profile = await self._store.profile(uid=uid)
        return profile.display_name

    async def set_display_name(self, uid: str, name: str | None) -> None:
        """Set or, with None, unset the display name of a user."""
        await self._store.set_display_name(uid=uid, name=name, now=self._clock.seconds())
        await self._changes.announce(uid)

"""
Read and write profiles.

A field is shown only to a token whose scopes allow it, even if the identity servers send more.
Profiles are cached per user and per set of visible fields, and per client if subscriptions are
visible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import AccountUnknown, CacheError, UpstreamRefused
from fxprofile.model.keys import DEFAULT_AVATAR_ID, image_url
from fxprofile.model.ports import (
    CacheLookup,
    CurrentAvatar,
    IIdentity,
    IProfileCache,
    IProfileStore,
)
from fxprofile.model.profiles import ACCOUNT_FIELDS, Account, Credentials, Profile
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.profiles.monogram import NAMES, Monograms
from fxprofile.profiles.scopes import allows
from fxprofile.telemetry.metrics import Metrics

#: The scopes that allow each field, any of them; a field without scopes is shown beside any other.
FIELD_SCOPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "uid": ("profile:uid",),
        "displayName": ("profile:display_name",),
        "avatar": ("profile:avatar",),
        "avatarId": ("profile:avatar",),
        "avatarDefault": ("profile:avatar",),
        "sub": ("openid",),
        **{name: sent.scopes for name, sent in ACCOUNT_FIELDS.items()},
    }
)

#: Seconds that a cached avatar is served.  This bounds how long a change remains unseen that did
#: not invalidate it: one that ``fxprofile-admin`` made while the cache is in memory, or one that a
#: process had no time to follow up.
AVATAR_AGE: Final = 60

_FOR_ALL: Final = {field for field, needed in FIELD_SCOPES.items() if not needed}


@lru_cache(maxsize=1024)
def visible_fields(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the fields that a token with these scopes may see, in order."""
    fields = {field for field, needed in FIELD_SCOPES.items() if allows(scopes, *needed)}
    return tuple(sorted(fields | _FOR_ALL)) if fields else ()


def profile_variant(credentials: Credentials) -> str:
    """Return the key of a user's profile, as this token may see it, among those of the user."""
    fields = visible_fields(credentials.scopes)
    client = f"@{credentials.client_id or ''}" if "subscriptions" in fields else ""
    return ",".join(fields) + client


def avatar_variant(fields: Collection[str]) -> str:
    """Return the key of a user's avatar, as a token that may see these fields sees it."""
    # No profile has this key: it is no list of fields.
    return "avatar/" + ",".join(sorted(NAMES.intersection(fields)))


def entity_tag(value: object) -> str:
    """Return an entity tag of a JSON value, without quotes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ProfileView:
    """
    A profile as one token may see it.

    :ivar fields: the visible fields; those without a value are left out.
    :ivar etag: an entity tag of the fields, without quotes.
    :ivar modified: when the profile last changed, in seconds since the epoch.
    """

    fields: dict[str, object]
    etag: str
    modified: float


@attrs.define(kw_only=True, eq=False, slots=False)
class Profiles:
    """
    Reads profiles, through the cache, and writes display names.

    :param image_template: the setting ``images.url``.
    :param monograms: None disables monograms.
    :param caches_avatars: whether the cache is invalidated by every upload and result of any web
        process: only then :meth:`avatar` uses it.
    """

    _log = Logger()

    _identity: IIdentity
    _store: IProfileStore
    _cache: IProfileCache
    _invalidator: ProfileInvalidator
    _metrics: Metrics
    _clock: IReactorTime
    _image_template: str
    _monograms: Monograms | None
    _caches_avatars: bool = True
    # Keyed by user, variant and generation.
    _reads: SingleFlight[tuple[str, str, str], ProfileView] = attrs.field(
        factory=SingleFlight, init=False
    )

    async def view(self, *, token: str, credentials: Credentials) -> ProfileView | None:
        """
        Return the profile of a user, as this token may see it.

        Concurrent calls share one read if they see the same profile, and if the profile has
        not changed between their lookups.

        :returns: None if the token may not see any field.
        :raises DriverError: if the profile could not be read.
        :raises AccountUnknown: if the account does not exist.
        """
        fields = visible_fields(credentials.scopes)
        if not fields:
            return None
        variant = profile_variant(credentials)
        lookup = await self._lookup(credentials, variant)
        if lookup is None:
            return await self._read(token, credentials, fields)
        view = _decode(lookup.value)
        if view is not None:
            return view
        key = (credentials.uid, variant, lookup.generation)
        shared = key in self._reads
        try:
            return await self._reads.join(
                key, lambda: self._read_and_store(token, credentials, fields, lookup.generation)
            )
        except (AccountUnknown, UpstreamRefused):
            if not shared:
                raise
            # Another token was refused.
            return await self._read(token, credentials, fields)

    async def _lookup(self, credentials: Credentials, variant: str) -> CacheLookup | None:
        """Look up a profile; None if the cache is unreachable or misses a change."""
        with self._without_cache():
            if self._invalidator.is_current(credentials.uid):
                return await self._cache.lookup(
                    uid=credentials.uid,
                    variant=variant,
                    changed_at=credentials.profile_changed_at or 0,
                )
        return None

    async def _read_and_store(
        self, token: str, credentials: Credentials, fields: tuple[str, ...], generation: str
    ) -> ProfileView:
        view = await self._read(token, credentials, fields)
        if self._is_settled(view.fields, fields):
            text = json.dumps(asdict(view))
            await self._cache_text(credentials.uid, profile_variant(credentials), text, generation)
        return view

    async def _cache_text(self, uid: str, variant: str, text: str, generation: str) -> None:
        with self._without_cache():
            if self._invalidator.is_current(uid):
                await self._cache.store(uid=uid, variant=variant, value=text, generation=generation)

    async def _read(
        self, token: str, credentials: Credentials, fields: tuple[str, ...]
    ) -> ProfileView:
        account: Account = await self._identity.account(token=token, credentials=credentials)
        profile = await self._store.profile(uid=credentials.uid)
        known: dict[str, object] = {
            **account,
            "displayName": profile.display_name,
            "uid": credentials.uid,
            "sub": credentials.uid,
            "avatarId": profile.avatar_id or DEFAULT_AVATAR_ID,
        }
        if "avatar" in fields:
            email = account.get("email") if "email" in fields else None
            known |= await self._picture(profile, fields, email)
        shown = {field: known[field] for field in fields if known.get(field) is not None}
        return ProfileView(
            fields=shown,
            etag=entity_tag(shown),
            modified=max(profile.changed_at, (credentials.profile_changed_at or 0) / 1000),
        )

    def _is_settled(self, shown: Mapping[str, object], fields: tuple[str, ...]) -> bool:
        """Return whether no letter that another token shows can replace a default avatar."""
        has_default = self._monograms is not None and shown.get("avatarDefault")
        return not has_default or NAMES.issubset(fields)

    async def _picture(
        self, profile: Profile, fields: tuple[str, ...], email: str | None
    ) -> dict[str, object]:
        """Return the fields of a user's avatar, monogram or default avatar."""
        monogram = None
        if profile.avatar_id is None and self._monograms is not None:
            monogram = await self._monograms.url(profile, fields, email)
        url = monogram or image_url(self._image_template, profile.avatar_id or DEFAULT_AVATAR_ID)
        return {"avatar": url, "avatarDefault": profile.avatar_id is None and monogram is None}

    @contextmanager
    def _without_cache(self) -> Iterator[None]:
        """Log and count an error of the cache, and go on without it."""
        try:
            yield
        except CacheError as error:
            self._metrics.upstream_errors.labels("cache").inc()
            self._log.warn("Profile read without the cache: {error}", error=error)

    async def email(self, *, token: str, credentials: Credentials) -> str | None:
        """
        Return the e-mail address of an account.

        The caller has checked that the token may see it.

        :raises DriverError: if the account could not be read.
        """
        account: Account = await self._identity.account(token=token, credentials=credentials)
        return account.get("email")

    async def subscriptions(self, *, token: str, credentials: Credentials) -> list[str]:
        """
        Return the capabilities that the user's subscriptions give to the client of a token.

        The caller has checked that the token may see them.

        :raises DriverError: if the account could not be read.
        """
        account: Account = await self._identity.account(token=token, credentials=credentials)
        return account.get("subscriptions", [])

    async def avatar(
        self, *, token: str, credentials: Credentials
    ) -> tuple[dict[str, Any], str | None]:
        """
        Return the selected avatar of a user, as the API shows it, and the id of a pending upload.

        It is cached only while no upload is pending, and for at most :data:`AVATAR_AGE` seconds.

        :raises DriverError: if they could not be read.
        """
        fields, now = visible_fields(credentials.scopes), self._clock.seconds()
        variant = avatar_variant(fields)
        lookup = await self._lookup(credentials, variant) if self._caches_avatars else None
        cached = None if lookup is None else _decode_avatar(lookup.value, now)
        if cached is not None:
            return cached, None
        current = await self._store.current_avatar(uid=credentials.uid)
        shown = await self._show_avatar(current, token, credentials, fields)
        if lookup is not None and current.pending is None and self._is_settled(shown, fields):
            text = json.dumps({"avatar": shown, "read": now})
            await self._cache_text(credentials.uid, variant, text, lookup.generation)
        return shown, current.pending

    async def _show_avatar(
        self,
        current: CurrentAvatar,
        token: str,
        credentials: Credentials,
        fields: tuple[str, ...],
    ) -> dict[str, Any]:
        profile, email = current.profile, None
        if self._monograms is not None and self._monograms.needs_email(profile, fields):
            email = await self.email(token=token, credentials=credentials)
        picture = await self._picture(profile, fields, email)
        shown = {
            "id": profile.avatar_id or DEFAULT_AVATAR_ID,
            **picture,
            "url": picture["avatar"],
        }
        if current.placeholder:
            shown["placeholder"] = current.placeholder
        return shown

    async def display_name(self, uid: str) -> str | None:
        """Return the display name of a user."""
        profile: Profile = await self._store.profile(uid=uid)
        return profile.display_name

    async def set_display_name(self, uid: str, name: str | None) -> None:
        """Set the display name of a user; None unsets it."""
        await self._store.set_display_name(uid=uid, name=name, now=self._clock.seconds())
        await self._invalidator.profile_changed(uid)


def _decode(value: str | None) -> ProfileView | None:
    """Read a cached profile; None if another version of this program has stored it."""
    try:
        return None if value is None else ProfileView(**json.loads(value))
    except (ValueError, TypeError):
        return None


def _decode_avatar(value: str | None, now: float) -> dict[str, Any] | None:
    """Read a cached avatar; None if it is too old, or stored by another version."""
    try:
        entry = json.loads(value or "null")
        is_new = 0 <= now - entry["read"] < AVATAR_AGE
        return entry["avatar"] if is_new and isinstance(entry["avatar"], dict) else None
    except (ValueError, TypeError, KeyError):
        return None

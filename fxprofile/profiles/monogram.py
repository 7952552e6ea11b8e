"""
The monograms of users without an avatar.

The letter is the initial of the display name, or of the address if the name has none.  What a
token that may see it has shown is stored with the profile, so that every other token that may
see the avatar shows the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import quote

import attrs
from twisted.logger import Logger

from fxprofile.model.errors import StoreError
from fxprofile.model.keys import initial
from fxprofile.model.ports import IProfileStore
from fxprofile.model.profiles import Profile
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.telemetry.metrics import Metrics

#: The fields that determine the letter.
NAMES: Final = frozenset({"displayName", "email"})


@attrs.define(kw_only=True, eq=False, slots=False)
class Monograms:
    """
    Chooses and stores the letters of users without an avatar.

    :param url: the URL of monograms, ending in a slash.
    """

    _log = Logger()

    _store: IProfileStore
    _invalidator: ProfileInvalidator
    _metrics: Metrics
    _url: str

    def needs_email(self, profile: Profile, visible: Collection[str]) -> bool:
        """Return whether the letter depends on the address, for a token that may see it."""
        if profile.avatar_id is not None or "email" not in visible:
            return False
        return "displayName" not in visible or initial(profile.display_name or "") is None

    async def url(
        self, profile: Profile, visible: Collection[str], email: str | None
    ) -> str | None:
        """
        Return the URL of a user's monogram, and store its letter if it is a new one.

        :param profile: without an avatar.
        :param visible: the fields that the token may see.
        :param email: the address, if the token may see it.
        :returns: None if the letter is unknown, or if there is none.
        """
        letter = _letter(profile, visible, email)
        if letter != profile.monogram:
            await self._update(profile, letter)
        return None if letter is None else self._url + quote(letter)

    async def _update(self, profile: Profile, letter: str | None) -> None:
        try:
            stored = await self._store.set_monogram(profile=profile, letter=letter)
        except StoreError as error:
            self._metrics.upstream_errors.labels("database").inc()
            self._log.warn("The letter of a monogram is not stored: {error}", error=error)
            return
        if stored and profile.monogram is not None:
            # The address has changed, and cached profiles may show the letter of the old one.
            await self._invalidator.invalidate(profile.uid)


def _letter(profile: Profile, visible: Collection[str], email: str | None) -> str | None:
    letter = initial(profile.display_name or "")
    if letter is not None and "displayName" in visible:
        return letter
    if letter is None and email is not None:
        return initial(email)
    # The token may not see what determines the letter.
    return profile.monogram or initial(email or "")

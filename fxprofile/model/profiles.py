"""Profiles, and the data of a user from the identity servers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """
    The profile of a user in the database.

    :ivar changed_at: when it last changed, in seconds since the epoch.
    :ivar monogram: the letter that users without an avatar were last shown by.
    """

    uid: str
    display_name: str | None = None
    avatar_id: str | None = None
    changed_at: float = 0.0
    monogram: str | None = None


@dataclass(frozen=True)
class Credentials:
    """
    The OAuth server's response for a token.

    :ivar profile_changed_at: when the account last changed, in milliseconds since the epoch,
        as the OAuth server counts, or None if it is not known.
    :ivar expires_at: when the token expires, in seconds since the epoch, or None.
    """

    uid: str
    scopes: tuple[str, ...]
    profile_changed_at: int | None = None
    client_id: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True)
class Account:
    """The auth server's data of an account; a missing field is None."""

    email: str | None = None
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    two_factor: bool | None = None

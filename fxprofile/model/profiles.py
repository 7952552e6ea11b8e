"""Profiles, and what the identity servers know of a user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """
    What the database holds of a user.

    :ivar changed_at: when this last changed, in seconds since the epoch.
    """

    uid: str
    display_name: str | None = None
    avatar_id: str | None = None
    changed_at: float = 0.0


@dataclass(frozen=True)
class Credentials:
    """
    What the OAuth server says of a token.

    :ivar profile_changed_at: when the account last changed, in milliseconds since
        the epoch, as the OAuth server counts, or None if it does not say.
    :ivar expires_at: when the token ends, in seconds since the epoch, or None.
    """

    uid: str
    scopes: tuple[str, ...]
    profile_changed_at: int | None = None
    client_id: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True)
class Account:
    """What the auth server says of an account; what it left out is None."""

    email: str | None = None
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    two_factor: bool | None = None

"""Bearer tokens: their form, and a cache of verified ones.  No token is stored as it is."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cachetools import TLRUCache
from twisted.internet.interfaces import IReactorTime

from fxprofile.model.profiles import Credentials

#: How many verified tokens are cached.
MAX_TOKENS: Final = 100_000

#: Seconds that the clocks of other machines may be ahead of ours.
SKEW: Final = 60

#: Longer texts are not tokens.
MAX_CHARACTERS: Final = 8192

#: RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def is_token(text: str) -> bool:
    """Return whether a text has the form of a bearer token."""
    return len(text) <= MAX_CHARACTERS and _TOKEN.fullmatch(text) is not None


def digest(token: str) -> bytes:
    """Return the key of a token in caches."""
    return sha256(token.encode()).digest()


def unverified_claims(token: str) -> dict[str, object] | None:
    """Return the claims of a signed JSON Web Token (RFC 7519), or None if it is not one."""
    parts = token.split(".")
    if len(parts) != 3 or _object(parts[0]) is None:
        return None
    return _object(parts[1])


def _object(part: str) -> dict[str, object] | None:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class VerifiedToken:
    """
    The result of verifying a token.

    :ivar asked_at: when the verification began, in seconds since the epoch.
    """

    credentials: Credentials
    asked_at: float


def token_cache(
    clock: IReactorTime, seconds: float, max_tokens: int = MAX_TOKENS
) -> TLRUCache[bytes, VerifiedToken]:
    """
    Return a bounded cache of verified tokens, by their digest.

    :param clock: of seconds since the epoch.
    :param seconds: how long a token is cached; never beyond its own expiry.
    """

    def expiry(key: bytes, token: VerifiedToken, now: float) -> float:
        expires_at = token.credentials.expires_at
        return now + seconds if expires_at is None else min(now + seconds, expires_at)

    return TLRUCache(max_tokens, ttu=expiry, timer=clock.seconds)

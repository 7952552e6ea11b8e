"""Tokens, and those that are trusted for a while.  None is kept as it is."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.profiles import Credentials

#: How many tokens are trusted at one time unless told otherwise.
MAX_TOKENS: Final = 100_000

#: Seconds that the clocks of other machines may be ahead of ours.
SKEW: Final = 60

#: A longer text is no token of ours.
MAX_CHARACTERS: Final = 8192

#: RFC 6750 section 2.1; nothing else can be sent in a header without care.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def is_token(text: str) -> bool:
    """Whether this may be a bearer token at all."""
    return len(text) <= MAX_CHARACTERS and _TOKEN.fullmatch(text) is not None


def digest(token: str) -> bytes:
    """What stands for a token wherever it is remembered."""
    return sha256(token.encode()).digest()


@dataclass(frozen=True, repr=False)
class Jwt:
    """The readable parts of a JSON Web Token (RFC 7519).  Nobody has vouched for them."""

    header: dict[str, Any]
    claims: dict[str, Any]


def read_jwt(token: str) -> Jwt | None:
    """Read a token that has the form of a signed JWT; None if it has not."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    header, claims = (_object(part) for part in parts[:2])
    if header is None or claims is None:
        return None
    return Jwt(header=header, claims=claims)


def _object(part: str) -> dict[str, Any] | None:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Trusted:
    """
    A token that was verified.

    :ivar asked: when that began, and
    :ivar until: how long it is trusted, both in seconds since the epoch.
    """

    credentials: Credentials
    asked: float
    until: float


class TokenCache:
    """
    Verified tokens, for a while.

    :param clock: of seconds since the epoch.
    :param seconds: how long a token is trusted; never longer than it lasts itself.
    :param max_tokens: the one that was not used for longest goes first.
    """

    def __init__(
        self, clock: IReactorTime, *, seconds: float, max_tokens: int = MAX_TOKENS
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._max_tokens = max_tokens
        self._trusted: OrderedDict[bytes, Trusted] = OrderedDict()
        self._keys: dict[str, set[bytes]] = {}
        self._watched: dict[object, set[str]] = {}

    def __len__(self) -> int:
        return len(self._trusted)

    def get(self, key: bytes) -> Trusted | None:
        """What is known of a token that is still trusted."""
        trusted = self._trusted.get(key)
        if trusted is None:
            return None
        if trusted.until <= self._clock.seconds():
            self._remove(key)
            return None
        self._trusted.move_to_end(key)
        return trusted

    async def fill(
        self, key: bytes, verify: Callable[[], Coroutine[Any, Any, Credentials]]
    ) -> Credentials:
        """Verify a token, and trust it, unless its user is forgotten in the meantime."""
        asked = self._clock.seconds()
        watch = object()
        forgotten = self._watched[watch] = set()
        try:
            credentials = await verify()
        finally:
            del self._watched[watch]
        if credentials.uid not in forgotten:
            self._set(key, credentials, asked)
        return credentials

    def drop(self, key: bytes) -> None:
        """Trust a token no longer."""
        if key in self._trusted:
            self._remove(key)

    def forget(self, uid: str) -> None:
        """Trust no token of a user any longer."""
        for forgotten in self._watched.values():
            forgotten.add(uid)
        for key in tuple(self._keys.get(uid, ())):
            self._remove(key)

    def _set(self, key: bytes, credentials: Credentials, asked: float) -> None:
        now = self._clock.seconds()
        until = now + self._seconds
        if credentials.expires_at is not None:
            until = min(until, credentials.expires_at)
        if key in self._trusted:
            self._remove(key)
        if until <= now:
            return
        self._trusted[key] = Trusted(credentials=credentials, asked=asked, until=until)
        self._keys.setdefault(credentials.uid, set()).add(key)
        while len(self._trusted) > self._max_tokens:
            self._remove(next(iter(self._trusted)))

    def _remove(self, key: bytes) -> None:
        uid = self._trusted.pop(key).credentials.uid
        keys = self._keys[uid]
        keys.discard(key)
        if not keys:
            del self._keys[uid]

"""Revocations that web processes share."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer
from zope.interface.verify import verifyObject

from fxprofile.drivers.fxa.identity import FxaIdentity
from fxprofile.drivers.fxa.tokens import SKEW
from fxprofile.model.errors import CacheError, InvalidToken
from fxprofile.model.ports import IRevocations
from fxprofile.model.profiles import Credentials
from fxprofile.settings.model import IdentitySettings
from tests.drivers.fxa.signed import AUDIENCE, ISSUER, AccessTokenCase
from tests.support.fakes.oauth import ALICE


@implementer(IRevocations)
class FakeRevocations:
    """
    Shared revocations in memory.

    :ivar down: whether they are unavailable.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}
        self.down = False

    async def revoke(self, *, uid: str) -> None:
        self._check()
        self._at[uid] = self._clock.seconds()

    async def revoked_at(self, *, uid: str) -> float | None:
        self._check()
        return self._at.get(uid)

    def _check(self) -> None:
        if self.down:
            raise CacheError("away")


class TwoProcesses(AccessTokenCase):
    """The drivers of two web processes that share revocations."""

    def setUp(self) -> None:
        super().setUp()
        self.revocations = FakeRevocations(self.clock)
        verifyObject(IRevocations, self.revocations)
        self.here, self.there = self.make(), self.make()

    def make(self, **settings: Any) -> FxaIdentity:
        """Return the driver of a process."""
        settings = {**self.trust(), "oauth_url": "http://oauth.example/v1", **settings}
        return FxaIdentity(
            self.agent,
            self.clock,
            self.metrics,
            IdentitySettings(**settings),
            revocations=self.revocations,
        )

    def trust(self) -> dict[str, Any]:
        """Return the settings that make the drivers trust tokens."""
        raise NotImplementedError

    def forget(self, identity: FxaIdentity) -> Deferred[None]:
        return Deferred.fromCoroutine(identity.invalidate_tokens(uid=ALICE))

    def verify_at(self, identity: FxaIdentity, token: str) -> Deferred[Credentials]:
        return Deferred.fromCoroutine(identity.verify(token=token))

    def assert_good(self, token: str, *identities: FxaIdentity) -> None:
        for identity in identities:
            self.successResultOf(self.verify_at(identity, token))

    def assert_bad(self, token: str, *identities: FxaIdentity) -> None:
        for identity in identities:
            self.failureResultOf(self.verify_at(identity, token), InvalidToken)


class CachedTokenTests(TwoProcesses):
    """Cached tokens and shared revocations."""

    def trust(self) -> dict[str, Any]:
        return {"token_cache_seconds": 600}

    def test_revocation_in_another_process(self) -> None:
        """A revocation in one process holds in the other, for this user only."""
        for token in ("alice", "bob"):
            self.assert_good(token, self.here, self.there)
        self.clock.advance(100)
        self.successResultOf(self.forget(self.here))
        del self.oauth.accounts["alice"]
        self.oauth.seen.clear()
        self.assert_bad("alice", self.here, self.there)
        self.assert_good("bob", self.here, self.there)
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_tokens_are_cached_again_later(self) -> None:
        """Tokens verified after the revocation are cached again, once clocks cannot differ."""
        self.successResultOf(self.forget(self.here))
        for seconds, asked in ((0, 1), (0, 2), (SKEW, 3), (1, 4), (1, 4)):
            self.clock.advance(seconds)
            self.assert_good("alice", self.there)
            self.assertEqual(len(self.oauth.verified), asked, seconds)

    def test_revocations_unavailable(self) -> None:
        """While revocations are unavailable, each token is verified."""
        self.assert_good("alice", self.there)
        self.revocations.down = True
        self.assert_good("alice", self.there, self.there)
        self.assertEqual(len(self.oauth.verified), 3)
        self.revocations.down = False
        self.assert_good("alice", self.there)
        self.assertEqual(len(self.oauth.verified), 3)

    def test_revocation_that_cannot_be_shared(self) -> None:
        """A revocation that cannot be shared raises an error, and holds in this process."""
        self.assert_good("alice", self.here)
        self.revocations.down = True
        self.failureResultOf(self.forget(self.here), CacheError)
        self.revocations.down = False
        self.assert_good("alice", self.here)
        self.assertEqual(len(self.oauth.verified), 2)

    def test_process_without_cache_needs_no_revocations(self) -> None:
        """A process that verifies each token does not use the revocations."""
        self.revocations.down = True
        identity = self.make(token_cache_seconds=0)
        self.assert_good("alice", identity)
        self.successResultOf(self.forget(identity))


class SignedTokenTests(TwoProcesses):
    """Self-contained tokens and shared revocations."""

    def trust(self) -> dict[str, Any]:
        return {
            "jwks_url": "http://oauth.example/v1/jwks",
            "issuer": ISSUER,
            "audience": (AUDIENCE,),
        }

    def test_revocation_in_another_process(self) -> None:
        """A token from before the revocation is verified by the server; a later one is not."""
        before = self.token()
        self.assert_good(before, self.here, self.there)
        self.clock.advance(100)
        self.successResultOf(self.forget(self.here))
        self.assert_bad(before, self.here, self.there)
        self.assertEqual(self.oauth.verified, [before, before])
        self.clock.advance(SKEW + 1)
        self.assert_good(self.token(), self.here, self.there)
        self.assertEqual(len(self.oauth.verified), 2)

    def test_revocations_unavailable(self) -> None:
        """While revocations are unavailable, the server verifies each token."""
        token = self.token()
        self.known(token)
        self.revocations.down = True
        self.assert_good(token, self.here)
        self.assertEqual(self.oauth.verified, [token])

"""Concurrent verifications, and the cache of verified tokens."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.fxa.tokens import VerifiedToken, token_cache
from fxprofile.model.errors import AccountUnknown, AuthUnavailable, InvalidToken, OAuthUnavailable
from tests.drivers.fxa.driver import CREDENTIALS, FxaCase, jwt_like
from tests.support.fakes.oauth import ALICE, error


class SingleFlightTests(FxaCase):
    """Concurrent requests with one token share a verification."""

    def setUp(self) -> None:
        super().setUp()
        self.oauth.hold = True

    def test_concurrent_requests_verify_once(self) -> None:
        """Concurrent requests with one token verify it once."""
        verifying = [self.verify() for _ in range(5)]
        self.agent.flush()
        self.release()
        results = [self.successResultOf(v) for v in verifying]
        self.assertEqual({result.uid for result in results}, {ALICE})
        self.assertEqual(self.oauth.verified, ["alice"])

    def test_each_token_is_verified(self) -> None:
        """Requests with different tokens do not share a verification."""
        verifying = [self.verify("alice"), self.verify("bob")]
        self.agent.flush()
        self.release()
        uids = [self.successResultOf(v).uid for v in verifying]
        self.assertEqual(len(set(uids)), 2)

    def test_nothing_is_cached_by_default(self) -> None:
        """Without a token cache each request verifies the token."""
        self.oauth.hold = False
        for _ in range(2):
            self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_rejection_is_shared(self) -> None:
        """A rejection reaches all waiting requests; the next request verifies again."""
        verifying = [self.verify("nobody") for _ in range(3)]
        self.agent.flush()
        self.release()
        for waiter in verifying:
            self.failureResultOf(waiter, InvalidToken)
        self.failureResultOf(self.verify("nobody"), InvalidToken)
        self.assertEqual(self.oauth.verified, ["nobody", "nobody"])

    def test_cancelled_request_does_not_disturb_the_others(self) -> None:
        """A cancelled request does not disturb the others, even if it came first."""
        verifying = [self.verify() for _ in range(3)]
        self.agent.flush()
        verifying[0].cancel()
        self.failureResultOf(verifying[0], CancelledError)
        self.release()
        for other in verifying[1:]:
            self.assertEqual(self.successResultOf(other).uid, ALICE)
        self.assertEqual(self.oauth.verified, ["alice"])

    def test_abandoned_verification_is_cancelled(self) -> None:
        """When all requests are cancelled the verification is, and the next request starts anew."""
        verifying = [self.verify() for _ in range(2)]
        self.agent.flush()
        for waiter in verifying:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.agent.flush()
        self.assertEqual(self.oauth.gone, 1)
        late = self.verify()
        self.agent.flush()
        self.release()
        self.assertEqual(self.successResultOf(late).uid, ALICE)
        self.agent.stopService()
        self.agent.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_joining_does_not_extend_the_timeout(self) -> None:
        """A request that joins later ends with the timeout of the shared verification."""
        first = self.verify()
        self.clock.advance(3)
        second = self.verify()
        self.clock.advance(2)
        self.failureResultOf(first, OAuthUnavailable)
        self.failureResultOf(second, OAuthUnavailable)


class TokenCacheTests(FxaCase):
    """Verified tokens are cached for ``identity.token_cache_seconds``."""

    def setUp(self) -> None:
        super().setUp()
        self.identity = self.make(token_cache_seconds=60)

    def test_token_is_cached_for_its_time(self) -> None:
        """A cached token is not verified again until its time is over."""
        first = self.successResultOf(self.verify())
        self.clock.advance(59)
        self.assertEqual(self.successResultOf(self.verify()), first)
        self.assertEqual(self.oauth.verified, ["alice"])
        self.clock.advance(1)
        self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_use_does_not_extend_the_time(self) -> None:
        """Using a cached token does not extend its time."""
        for _ in range(3):
            self.successResultOf(self.verify())
            self.clock.advance(30)
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_rejections_are_not_cached(self) -> None:
        """A rejected token is verified again."""
        self.failureResultOf(self.verify("carol"), InvalidToken)
        self.server.accounts["carol"] = self.server.accounts["alice"]
        self.successResultOf(self.verify("carol"))

    def test_outages_are_not_cached(self) -> None:
        """After an outage the next request verifies the token."""
        self.oauth.answer = lambda _: error(500, 999)
        self.failureResultOf(self.verify(), OAuthUnavailable)
        self.oauth.answer = None
        self.successResultOf(self.verify())

    def test_cached_token_survives_an_outage(self) -> None:
        """A cached token is accepted while the server is down."""
        self.successResultOf(self.verify())
        self.oauth.answer = lambda _: error(500, 999)
        self.successResultOf(self.verify())

    def test_invalidation_affects_all_tokens_of_the_user(self) -> None:
        """An invalidation affects every cached token of the user, and of no other user."""
        self.server.accounts["alice2"] = self.server.accounts["alice"]
        for token in ("alice", "alice2", "bob"):
            self.successResultOf(self.verify(token))
        self.successResultOf(Deferred.fromCoroutine(self.identity.invalidate_tokens(uid=ALICE)))
        del self.server.accounts["alice"]
        self.failureResultOf(self.verify("alice"), InvalidToken)
        self.successResultOf(self.verify("alice2"))
        self.successResultOf(self.verify("bob"))
        self.assertEqual(self.oauth.verified.count("bob"), 1)
        self.assertEqual(self.oauth.verified.count("alice2"), 2)

    def test_unknown_account_removes_the_token(self) -> None:
        """A token whose account is unknown is removed from the cache."""
        for token in ("alice", "bob"):
            self.successResultOf(self.verify(token))
        self.auth.answer = lambda _: error(400, 102)
        self.failureResultOf(self.account("alice"), AccountUnknown)
        self.failureResultOf(self.account("nobody"), AccountUnknown)
        self.auth.answer = lambda _: error(500, 999)
        self.failureResultOf(self.account("bob"), AuthUnavailable)
        for token in ("alice", "bob"):
            self.successResultOf(self.verify(token))
        self.assertEqual(self.oauth.verified, ["alice", "bob", "alice"])

    def test_invalidation_during_a_verification(self) -> None:
        """A verification that began before an invalidation is not cached."""
        self.oauth.hold = True
        verifying = self.verify()
        self.agent.flush()
        self.successResultOf(Deferred.fromCoroutine(self.identity.invalidate_tokens(uid=ALICE)))
        self.release()
        self.successResultOf(verifying)
        self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_token_is_not_cached_beyond_its_expiry(self) -> None:
        """A token with an expiry is cached until then at most."""
        token = jwt_like(exp=self.clock.seconds() + 10)
        self.server.accounts[token] = self.server.accounts["alice"]
        credentials = self.successResultOf(self.verify(token))
        self.assertEqual(credentials.expires_at, self.clock.seconds() + 10)
        self.clock.advance(9)
        self.successResultOf(self.verify(token))
        self.assertEqual(len(self.oauth.verified), 1)
        self.clock.advance(1)
        self.successResultOf(self.verify(token))
        self.successResultOf(self.verify(token))
        self.assertEqual(len(self.oauth.verified), 3)

    def test_invalid_expiry_is_ignored(self) -> None:
        """An expiry that is not a valid time is ignored."""
        for exp in ("soon", None, True, float("nan"), float("inf"), -1, [1]):
            token = jwt_like(exp=exp)
            self.server.accounts[token] = self.server.accounts["alice"]
            self.assertIsNone(self.successResultOf(self.verify(token)).expires_at)


class TokenCacheBoundTests(SynchronousTestCase):
    """The cache of verified tokens is bounded."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cache = token_cache(self.clock, 60, max_tokens=3)

    def test_least_recently_used_token_is_evicted(self) -> None:
        """If the cache is full, the least recently used token is evicted."""
        for key in (b"1", b"2", b"3"):
            self.cache[key] = VerifiedToken(CREDENTIALS, 0)
        self.cache.get(b"1")
        self.cache[b"4"] = VerifiedToken(CREDENTIALS, 0)
        self.assertEqual(len(self.cache), 3)
        self.assertIsNone(self.cache.get(b"2"))
        self.assertIsNotNone(self.cache.get(b"1"))

    def test_expired_token_is_not_cached(self) -> None:
        """A token that has expired by the time it is verified is not cached."""
        self.clock.advance(100)
        self.cache[b"1"] = VerifiedToken(replace(CREDENTIALS, expires_at=100), 100)
        self.assertEqual(len(self.cache), 0)

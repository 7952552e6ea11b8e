"""The keys of the OAuth server, and revoked access tokens."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.fxa.access_tokens import BETWEEN_FETCHES, FRESH, STALE
from fxprofile.model.errors import OAuthUnavailable
from fxprofile.settings.load import read
from tests.drivers.fxa.signed import AccessTokenCase, private_key, public
from tests.support.fakes.oauth import ALICE, Said, error


class KeySetTests(AccessTokenCase):
    """When keys are fetched, and which ones are used."""

    def test_keys_are_cached(self) -> None:
        """Keys are fetched once, and again after a while."""
        for _ in range(3):
            self.assertGood(self.token())
        self.assertEqual(self.oauth.fetches, 1)
        self.clock.advance(FRESH)
        self.assertGood(self.token())
        self.assertEqual(self.oauth.fetches, 2)

    def test_concurrent_tokens_share_a_fetch(self) -> None:
        """Tokens that are verified at the same time share a fetch."""
        self.oauth.hold = True
        tokens = [self.token(), self.token(key=private_key("EC"))]
        verifying = [self.verify(token) for token in tokens]
        self.agent.flush()
        self.oauth.hold = False
        self.oauth.release()
        self.agent.flush()
        for one in verifying:
            self.successResultOf(one)
        self.assertEqual(self.oauth.fetches, 1)

    def test_new_key_is_fetched(self) -> None:
        """A key that the server has published since is fetched."""
        self.assertGood(self.token())
        new = private_key("RSA", 1)
        self.oauth.keys.append(public(new))
        self.clock.advance(BETWEEN_FETCHES)
        self.assertGood(self.token(key=new))
        self.assertEqual(self.oauth.fetches, 2)

    def test_removed_key_expires(self) -> None:
        """A key that the server has removed is not used after the next fetch."""
        token = self.token(exp=int(self.clock.seconds()) + 2 * FRESH)
        self.assertGood(token)
        self.oauth.keys = self.oauth.keys[1:]
        self.clock.advance(FRESH)
        self.assertBad(token)

    def test_unknown_keys_do_not_cause_fetches(self) -> None:
        """Unknown key ids do not exceed the rate of fetches: the server verifies such tokens."""
        self.assertGood(self.token())
        for i in range(5):
            self.clock.advance(1)
            self.assertBad(self.token(header={"kid": f"made up {i}"}))
        self.assertEqual(self.oauth.fetches, 1)
        self.assertEqual(len(self.oauth.verified), 5)

    def test_new_key_before_the_next_fetch(self) -> None:
        """Until a new key may be fetched, the server verifies the tokens that it signed."""
        self.assertGood(self.token())
        new = private_key("RSA", 1)
        self.oauth.keys.append(public(new))
        self.clock.advance(1)
        token = self.token(key=new)
        self.known(token)
        credentials = self.assertGood(token)
        self.assertEqual(credentials.scopes, ("profile:uid",))
        self.assertEqual(credentials.expires_at, self.claims()["exp"])
        self.assertEqual(self.oauth.fetches, 1)

    def test_keys_unavailable(self) -> None:
        """While the keys are unavailable, the server verifies each token."""
        token = self.token()
        self.known(token)
        fine = self.oauth.say
        for said in (
            error(500, 999),
            error(404, 999),
            Said(body=b"{"),
            Said(members={}),
            Said(members={"keys": {}}),
            Said(members={"keys": []}),
            Said(members={"keys": [7, None, {}]}),
            Said(members={"keys": [{}] * 101}),
        ):
            self.oauth.answer = lambda seen, said=said: (
                said if seen.path.endswith("/jwks") else fine(seen)
            )
            self.assertGood(token)
            self.clock.advance(BETWEEN_FETCHES)
        self.assertEqual(len(self.oauth.verified), 8)
        counted = self.metrics.registry.get_sample_value(
            "fxprofile_upstream_errors_total", {"upstream": "jwks"}
        )
        self.assertEqual(counted, 8)

    def test_claims_are_checked_without_keys(self) -> None:
        """While the keys are unavailable, the claims are still checked."""
        self.oauth.answer = lambda seen: error(500, 999)
        self.assertBad(self.token(aud="dcdb5ae7add825d2"))
        self.assertBad(self.token(header={"alg": "RS512"}))
        self.assertBad(self.token(header={"typ": "JWT"}))
        self.assertEqual(self.oauth.verified, [])

    def test_stale_keys(self) -> None:
        """While newer keys are unavailable, the last ones are used for a day."""
        self.assertGood(self.token())
        fine = self.oauth.say
        self.oauth.answer = lambda seen: (
            error(500, 999) if seen.path.endswith("/jwks") else fine(seen)
        )
        self.clock.advance(STALE - 1)
        self.assertGood(self.token())
        self.assertEqual(self.oauth.verified, [])
        self.clock.advance(1)
        token = self.token()
        self.known(token)
        self.assertGood(token)
        self.assertEqual(self.oauth.verified, [token])

    def test_timeout_covers_keys_and_verification(self) -> None:
        """A failed fetch of keys leaves time to verify the token, within one timeout."""
        self.oauth.hold = True
        first = self.verify(self.token())
        self.agent.flush()
        self.clock.advance(2.5)
        self.agent.flush()
        self.assertEqual(len(self.oauth.verified), 1)
        self.clock.advance(2.5)
        self.failureResultOf(first, OAuthUnavailable)
        self.agent.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unsuitable_keys_are_ignored(self) -> None:
        """A key for another purpose, or one that is too weak or too slow, is ignored."""
        good = public(private_key("RSA", 1))
        weak = {**good, "n": base64.urlsafe_b64encode(b"\xff" * 128).decode().rstrip("=")}
        slow = {**good, "n": base64.urlsafe_b64encode(b"\xff" * 2048).decode().rstrip("=")}
        token = self.token(key=private_key("RSA", 1))
        for key in (
            {**good, "use": "enc"},
            {**good, "alg": "RS512"},
            {**good, "alg": "PS256"},
            {**good, "kty": "oct", "k": good["n"]},
            {**good, "kty": 7},
            {**good, "kid": 7},
            {**good, "n": 7},
            {**good, "n": "!" * 342},
            {**good, "e": base64.urlsafe_b64encode(b"\x01" * 16).decode().rstrip("=")},
            {**good, "e": ""},
            weak,
            slow,
            {**public(private_key("EC", 1)), "crv": "P-384", "kid": good["kid"]},
            {**public(private_key("EC", 1)), "x": "AAAA", "kid": good["kid"]},
        ):
            with self.subTest(key):
                self.oauth.keys = [public(private_key()), key]
                self.clock.advance(FRESH)
                self.assertBad(self.token(key=private_key("RSA", 1)))
                self.assertGood(self.token())
        self.oauth.keys = [{**good, "alg": "RS256", "use": "sig", "x5t": "more"}]
        self.clock.advance(FRESH)
        del token
        self.assertGood(self.token(key=private_key("RSA", 1)))

    def test_private_parts_are_discarded(self) -> None:
        """If a server publishes a private key, only its public part is used."""
        self.oauth.keys = [private_key().as_dict(private=True)]
        self.assertGood(self.token())
        (key,) = self.identity._access_tokens._keys._keys.values()
        self.assertFalse(key.is_private)


class InvalidationTests(AccessTokenCase):
    """Access tokens of users whose tokens were invalidated."""

    def test_earlier_token_is_verified_by_the_server(self) -> None:
        """A token from before the invalidation is verified by the server; a later one is not."""
        before = self.token()
        self.assertGood(before)
        self.successResultOf(Deferred.fromCoroutine(self.identity.invalidate_tokens(uid=ALICE)))
        self.assertBad(before)
        self.assertEqual(self.oauth.verified, [before])
        self.known(before)
        self.assertGood(before)
        self.clock.advance(61)
        self.assertGood(self.token())
        self.assertEqual(len(self.oauth.verified), 2)

    def test_other_users_are_unaffected(self) -> None:
        """Tokens of other users are unaffected."""
        self.successResultOf(
            Deferred.fromCoroutine(self.identity.invalidate_tokens(uid="b0b00000" * 4))
        )
        self.assertGood(self.token())
        self.assertEqual(self.oauth.verified, [])


class CachedAccessTokenTests(AccessTokenCase):
    """Access tokens with a token cache."""

    settings: ClassVar[dict[str, Any]] = {"token_cache_seconds": 7200}

    def test_cached_until_the_expiry(self) -> None:
        """A self-contained token is cached until its own expiry at most."""
        token = self.token()
        self.assertGood(token)
        self.clock.advance(3600)
        self.assertBad(token)

    def test_invalidation_of_a_cached_token(self) -> None:
        """An invalidated token is verified by the server although its signature is valid."""
        token = self.token()
        self.assertGood(token)
        self.successResultOf(Deferred.fromCoroutine(self.identity.invalidate_tokens(uid=ALICE)))
        self.assertBad(token)


class SettingsTests(SynchronousTestCase):
    """Settings that depend on each other."""

    def test_keys_require_issuer_and_audience(self) -> None:
        """``identity.jwks_url`` without issuer and audience is a configuration error."""
        url = "identity.jwks_url=http://oauth.example/v1/jwks"
        issuer = "identity.issuer: must be set when identity.jwks_url is set"
        audience = "identity.audience: must be set when identity.jwks_url is set"
        problems, _ = read(environ={}, overrides=[url])
        self.assertEqual(problems, [issuer, audience])
        problems, _ = read(environ={}, overrides=[url, "identity.issuer=https://a"])
        self.assertEqual(problems, [audience])
        environ = {"FXPROFILE_IDENTITY__AUDIENCE": '["https://profile.example"]'}
        problems, settings = read(environ=environ, overrides=[url, "identity.issuer=https://a"])
        self.assertEqual(problems, [])
        self.assertEqual(settings.identity.audience, ("https://profile.example",))

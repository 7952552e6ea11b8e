"""The keys of the OAuth server, and tokens that are no longer trusted."""

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
    """When keys are fetched, and which are taken."""

    def test_kept(self) -> None:
        """Keys are fetched once for a while."""
        for _ in range(3):
            self.assertGood(self.token())
        self.assertEqual(self.oauth.fetches, 1)
        self.clock.advance(FRESH)
        self.assertGood(self.token())
        self.assertEqual(self.oauth.fetches, 2)

    def test_fetched_once_at_a_time(self) -> None:
        """Tokens that come together share a fetch."""
        self.oauth.hold = True
        tokens = [self.token(), self.token(key=private_key("EC"))]
        verifying = [self.verify(token) for token in tokens]
        self.treq.flush()
        self.oauth.hold = False
        self.oauth.release()
        self.treq.flush()
        for one in verifying:
            self.successResultOf(one)
        self.assertEqual(self.oauth.fetches, 1)

    def test_new_key(self) -> None:
        """A key that the server has since is found, at a bounded rate."""
        self.assertGood(self.token())
        new = private_key("RSA", 1)
        self.oauth.keys.append(public(new))
        self.clock.advance(BETWEEN_FETCHES)
        self.assertGood(self.token(key=new))
        self.assertEqual(self.oauth.fetches, 2)

    def test_removed_key(self) -> None:
        """A key that the server no longer has does not count for long."""
        token = self.token(exp=int(self.clock.seconds()) + 2 * FRESH)
        self.assertGood(token)
        self.oauth.keys = self.oauth.keys[1:]
        self.clock.advance(FRESH)
        self.assertBad(token)

    def test_rate(self) -> None:
        """Made-up keys cause no flood of fetches: the server is asked about such tokens."""
        self.assertGood(self.token())
        for i in range(5):
            self.clock.advance(1)
            self.assertBad(self.token(header={"kid": f"made up {i}"}))
        self.assertEqual(self.oauth.fetches, 1)
        self.assertEqual(len(self.oauth.verified), 5)

    def test_new_key_within_the_rate(self) -> None:
        """Until a new key may be fetched, the server tells of the tokens that it signed."""
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

    def test_no_keys(self) -> None:
        """While the keys cannot be had, the server is asked about each token."""
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

    def test_asked_about_only_if_the_claims_are_right(self) -> None:
        """Not having the keys is no way around what is pinned."""
        self.oauth.answer = lambda seen: error(500, 999)
        self.assertBad(self.token(aud="dcdb5ae7add825d2"))
        self.assertBad(self.token(header={"alg": "RS512"}))
        self.assertBad(self.token(header={"typ": "JWT"}))
        self.assertEqual(self.oauth.verified, [])

    def test_old_keys(self) -> None:
        """While newer keys cannot be had, those that are there count for a day."""
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

    def test_all_within_the_time(self) -> None:
        """Fetching keys in vain leaves time to ask about the token, and no more."""
        self.oauth.hold = True
        first = self.verify(self.token())
        self.treq.flush()
        self.clock.advance(2.5)
        self.treq.flush()
        self.assertEqual(len(self.oauth.verified), 1)
        self.clock.advance(2.5)
        self.failureResultOf(first, OAuthUnavailable)
        self.treq.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_keys_that_are_left_out(self) -> None:
        """A key for something else, or one that is too weak or too slow, does not count."""
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

    def test_private_parts_are_not_taken(self) -> None:
        """If a server published a private key, nothing of it would be kept here."""
        self.oauth.keys = [private_key().as_dict(private=True)]
        self.assertGood(self.token())
        (key,) = self.identity._access_tokens._keys._keys.values()
        self.assertFalse(key.is_private)


class ForgetTests(AccessTokenCase):
    """Users whose tokens are no longer trusted."""

    def test_forget(self) -> None:
        """Of a token from before, only the server can tell; a later one proves itself."""
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

    def test_others(self) -> None:
        """Other users are not concerned."""
        self.successResultOf(
            Deferred.fromCoroutine(self.identity.invalidate_tokens(uid="b0b00000" * 4))
        )
        self.assertGood(self.token())
        self.assertEqual(self.oauth.verified, [])


class CachedTests(AccessTokenCase):
    """With a token cache."""

    settings: ClassVar[dict[str, Any]] = {"token_cache_seconds": 7200}

    def test_end(self) -> None:
        """A token that proves itself is trusted until its own end at most."""
        token = self.token()
        self.assertGood(token)
        self.clock.advance(3600)
        self.assertBad(token)

    def test_forget(self) -> None:
        """A forgotten token is asked about, though it still proves itself."""
        token = self.token()
        self.assertGood(token)
        self.successResultOf(Deferred.fromCoroutine(self.identity.invalidate_tokens(uid=ALICE)))
        self.assertBad(token)


class SettingsTests(SynchronousTestCase):
    """What has to be set together."""

    def test_pinned(self) -> None:
        """Keys without an issuer and an audience are refused at the start."""
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

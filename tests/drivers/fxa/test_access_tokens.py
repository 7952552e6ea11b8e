"""Self-contained access tokens are verified with the public keys of the OAuth server."""

from __future__ import annotations

import base64
import json

from joserfc import jwt
from joserfc.jwk import OctKey

from fxprofile.model.errors import InvalidToken
from fxprofile.model.profiles import Credentials
from tests.drivers.fxa.signed import AUDIENCE, ISSUER, AccessTokenCase, private_key
from tests.support.fakes.oauth import ALICE


class GoodTests(AccessTokenCase):
    """Valid access tokens."""

    def test_claims_become_credentials(self) -> None:
        """The claims become credentials, and only the keys are requested from the server."""
        now = self.clock.seconds()
        self.assertEqual(
            self.assertGood(self.token()),
            Credentials(
                uid=ALICE,
                scopes=("profile", "openid"),
                profile_changed_at=1_699_000_000_123,
                client_id="dcdb5ae7add825d2",
                expires_at=now + 3600,
            ),
        )
        self.assertEqual((self.oauth.verified, self.oauth.fetches), ([], 1))

    def test_rs256_and_es256_are_accepted(self) -> None:
        """Signatures with RS256 and ES256 are accepted."""
        for kind in ("RSA", "EC"):
            self.assertGood(self.token(key=private_key(kind)))

    def test_type_is_a_media_type(self) -> None:
        """The type is compared as a media type: in any case, with or without its prefix."""
        for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
            self.assertGood(self.token(header={"typ": typ}))

    def test_single_audience(self) -> None:
        """The audience may be a single text instead of a list."""
        self.assertGood(self.token(aud=AUDIENCE))

    def test_optional_claims_may_be_missing(self) -> None:
        """A token without the optional claims is valid."""
        token = self.token(**{"scope": ..., "client_id": ..., "fxa-profileChangedAt": ...})
        credentials = self.assertGood(token)
        self.assertEqual(credentials.scopes, ())
        self.assertIsNone(credentials.client_id)
        self.assertIsNone(credentials.profile_changed_at)

    def test_issue_time_slightly_in_the_future(self) -> None:
        """A token is valid if it was issued by a clock that is slightly ahead."""
        self.assertGood(self.token(iat=int(self.clock.seconds()) + 30))

    def test_opaque_token_is_verified_by_the_server(self) -> None:
        """A token that is not a JWT is verified by the OAuth server."""
        self.assertEqual(self.assertGood("alice").uid, ALICE)
        self.assertEqual((self.oauth.verified, self.oauth.fetches), (["alice"], 0))


class BadTests(AccessTokenCase):
    """Invalid access tokens are rejected without asking the OAuth server."""

    def tearDown(self) -> None:
        self.assertEqual(self.oauth.verified, [])

    def test_expired_token(self) -> None:
        """A token is rejected from the second of its expiry on."""
        token = self.token()
        self.clock.advance(3599)
        self.assertGood(token)
        self.clock.advance(1)
        self.assertBad(token)

    def test_wrong_claims(self) -> None:
        """A token with a wrong or missing required claim is rejected."""
        now = int(self.clock.seconds())
        for changes in (
            {"iss": "https://evil.example"},
            {"iss": ISSUER + "/"},
            {"iss": ...},
            {"iss": [ISSUER]},
            {"iss": None},
            {"aud": "dcdb5ae7add825d2"},
            {"aud": AUDIENCE + ".evil.example"},
            {"aud": []},
            {"aud": ...},
            {"aud": {AUDIENCE: True}},
            {"aud": [AUDIENCE, 7]},
            {"exp": ...},
            {"exp": None},
            {"exp": str(now + 10)},
            {"exp": now},
            {"exp": True},
            {"exp": float("nan")},
            {"exp": float("inf")},
            {"exp": 10**400},
            {"iat": ...},
            {"iat": "now"},
            {"iat": now + 3600},
            {"nbf": now + 3600},
            {"nbf": "now"},
            {"sub": ...},
            {"sub": ""},
            {"sub": "alice"},
            {"sub": ALICE.upper()},
            {"sub": ALICE + "\n"},
            {"sub": 7},
            {"scope": ["profile"]},
            {"scope": 7},
            {"client_id": 7},
            {"fxa-profileChangedAt": "1"},
            {"fxa-profileChangedAt": -1},
        ):
            with self.subTest(changes):
                self.assertBad(self.token(**changes))

    def test_wrong_headers(self) -> None:
        """A token of another type or with an unknown critical header is rejected."""
        for header in (
            {"typ": "JWT"},
            {"typ": ...},
            {"typ": 7},
            {"typ": "id+jwt"},
            {"crit": ["exp"], "exp": 1},
            {"kid": 7},
            {"evil": 1},
        ):
            with self.subTest(header):
                good = self.token()
                parts = good.split(".")
                head = {"alg": "RS256", "typ": "at+JWT", "kid": private_key().kid, **header}
                head = {name: value for name, value in head.items() if value is not ...}
                encoded = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
                signed = encoded + "." + parts[1]
                self.assertBad(self.sign_raw(signed))

    def sign_raw(self, signed: str) -> str:
        """Return any text as a token, signed like those of the OAuth server."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        signature = private_key().private_key.sign(signed.encode(), PKCS1v15(), SHA256())
        return signed + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()

    def test_signed_text_that_is_not_json(self) -> None:
        """A correctly signed text that is not a JSON object is rejected."""
        head = self.token().split(".")[0]
        for payload in (b"", b"[]", b"7", b"{", b"[" * 5000, b"\xff", b'{"exp":' + b"9" * 5000):
            encoded = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
            token = self.sign_raw(f"{head}.{encoded}")
            failing = self.verify(token)
            # A text without the form of a JWT is verified by the server.
            self.failureResultOf(failing, InvalidToken)
        self.oauth.seen.clear()

    def test_wrong_signature(self) -> None:
        """A token that was signed by another key, or changed, is rejected."""
        good = self.token()
        head, body, signature = good.split(".")
        evil = base64.urlsafe_b64encode(
            json.dumps(self.claims(sub="b0b00000" * 4)).encode()
        ).rstrip(b"=")
        other = private_key("RSA", 1)
        for token in (
            f"{head}.{evil.decode()}.{signature}",
            f"{head}.{body}.",
            f"{head}.{body}.AAAA",
            f"{head}.{body}.{'A' * 342}",
            self.token(key=other, header={"kid": private_key().kid}),
        ):
            self.assertBad(token)

    def test_other_algorithms(self) -> None:
        """A token that names another algorithm is rejected."""
        rsa = private_key()
        for alg in ("RS384", "RS512", "PS256"):
            self.assertBad(self.token(header={"alg": alg}))
        _, body, _ = self.token().split(".")
        for alg in ("none", "None", "HS256", "RS256\n", "", 7, None, ["RS256"]):
            members = {"alg": alg, "typ": "at+JWT", "kid": rsa.kid}
            encoded = base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()
            self.assertBad(f"{encoded}.{body}.")
            self.assertBad(f"{encoded}.{body}.AAAA")

    def test_public_key_used_as_a_secret(self) -> None:
        """A token that was signed with the public key as a shared secret is rejected."""
        pem = private_key().as_pem(private=False)
        secret = OctKey.import_key(base64.urlsafe_b64encode(pem).decode())
        token = jwt.encode(
            {"alg": "HS256", "typ": "at+JWT", "kid": private_key().kid},
            self.claims(),
            secret,
            algorithms=["HS256"],
            default_type=None,
        )
        self.assertBad(token)

    def test_key_of_another_algorithm(self) -> None:
        """A key verifies only signatures of its own algorithm."""
        self.assertBad(self.token(header={"kid": private_key("EC").kid}))
        self.assertBad(self.token(key=private_key("EC"), header={"kid": private_key("RSA").kid}))

    def test_key_that_the_server_does_not_publish(self) -> None:
        """A token whose key the server does not publish is rejected."""
        self.assertBad(self.token(key=private_key("RSA", 1)))
        self.assertEqual(self.oauth.fetches, 1)

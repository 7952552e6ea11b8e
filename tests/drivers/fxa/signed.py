"""Base of tests with signed access tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.fxa.identity import FxaIdentity
from fxprofile.model.errors import InvalidToken
from fxprofile.model.profiles import Credentials
from fxprofile.settings.model import IdentitySettings
from fxprofile.telemetry.metrics import Metrics
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import ALICE, FakeAccount, FakeOAuth

ISSUER = "https://accounts.example"
AUDIENCE = "https://profile.example"


def private_key(kind: str = "RSA", which: int = 0) -> Any:
    """Return a private key of a kind."""
    return _private_key(kind, which)


@cache
def _private_key(kind: str, which: int) -> Any:
    """Make a key once: this is slow."""
    kid = f"{kind}-{which}"
    if kind == "RSA":
        return RSAKey.generate_key(2048, {"kid": kid})
    return ECKey.generate_key("P-256", {"kid": kid})


def public(key: Any, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **members}


class AccessTokenCase(SynchronousTestCase):
    """A driver with a clock and a fake OAuth server that publishes keys."""

    audience: tuple[str, ...] = (AUDIENCE,)
    settings: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.oauth = FakeOAuth()
        self.oauth.keys = [public(private_key("RSA")), public(private_key("EC"))]
        self.agent = MemoryAgent(self.clock, self.oauth)
        self.metrics = Metrics()
        settings = IdentitySettings(
            oauth_url="http://oauth.example/v1",
            jwks_url="http://oauth.example/v1/jwks",
            issuer=ISSUER,
            audience=self.audience,
            **self.settings,
        )
        self.identity = FxaIdentity(self.agent, self.clock, self.metrics, settings)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.seconds())
        claims = {
            "iss": ISSUER,
            "aud": ["dcdb5ae7add825d2", AUDIENCE],
            "sub": ALICE,
            "client_id": "dcdb5ae7add825d2",
            "scope": "profile openid",
            "iat": now,
            "exp": now + 3600,
            "jti": "00" * 32,
            "fxa-profileChangedAt": 1_699_000_000_123,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not ...}

    def token(
        self, *, key: Any = None, header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return a signed token; a claim that is ``...`` is left out."""
        key = key or private_key()
        members = {
            "alg": "RS256" if key.key_type == "RSA" else "ES256",
            "typ": "at+JWT",
            "kid": key.kid,
            **(header or {}),
        }
        members = {name: value for name, value in members.items() if value is not ...}
        return jwt.encode(
            members, self.claims(**changes), key, algorithms=[members["alg"]], default_type=None
        )

    def verify(self, token: str) -> Deferred[Credentials]:
        return Deferred.fromCoroutine(self.identity.verify(token=token))

    def assertGood(self, token: str) -> Credentials:
        return self.successResultOf(self.verify(token))

    def assertBad(self, token: str) -> None:
        failure = self.failureResultOf(self.verify(token), InvalidToken)
        self.assertNotIn(token, str(failure.value))

    def known(self, token: str) -> None:
        """Make a token known to the OAuth server."""
        self.oauth.accounts[token] = FakeAccount(token, ALICE, scopes=("profile:uid",))

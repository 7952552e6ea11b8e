"""Base of tests of the Firefox Accounts driver."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.fxa.identity import FxaIdentity
from fxprofile.model.profiles import Account, Credentials
from fxprofile.settings.model import IdentitySettings
from fxprofile.telemetry.metrics import Metrics
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import ALICE, FakeFxa

CREDENTIALS = Credentials(uid=ALICE, scopes=("profile",))


def jwt_like(**claims: Any) -> str:
    """Return a token of the form of a JWT, without a valid signature."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims)]
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, b"signature")
    )


class FxaCase(TestCase):
    """A driver with a clock and fake servers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.server = FakeFxa()
        self.oauth, self.auth = self.server.oauth, self.server.auth
        self.agent = MemoryAgent(self.clock, self.server)
        self.identity = self.make()

    def make(self, **settings: Any) -> FxaIdentity:
        defaults: dict[str, Any] = {
            "oauth_url": "http://fxa.example/v1",
            "auth_url": "http://fxa.example/v1",
        }
        return FxaIdentity(
            self.agent, self.clock, Metrics(), IdentitySettings(**defaults | settings)
        )

    def verify(self, token: str = "alice") -> Deferred[Credentials]:
        return Deferred.fromCoroutine(self.identity.verify(token=token))

    def account(self, token: str = "alice") -> Deferred[Account]:
        return Deferred.fromCoroutine(self.identity.account(token=token, credentials=CREDENTIALS))

    def release(self) -> None:
        for server in (self.oauth, self.auth):
            server.hold = False
            server.release()
        self.agent.flush()

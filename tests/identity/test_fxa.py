"""The identity of Firefox Accounts."""

from __future__ import annotations

import base64
import json
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from fxprofile.config import Identity, load
from fxprofile.errors import (
    AccountUnknown,
    AuthUnavailable,
    InvalidToken,
    OAuthUnavailable,
    UpstreamRefused,
)
from fxprofile.identity import identity_from_config
from fxprofile.identity.fxa import FxaIdentity
from fxprofile.interfaces import IIdentity
from fxprofile.metrics import Metrics
from fxprofile.model import Account, Credentials
from tests.contracts.identity import IdentityContract
from tests.fakes.oauth import ALICE, FakeFxa, Said, Seen, error

CREDENTIALS = Credentials(uid=ALICE, scopes=("profile",))


def jwt_like(**claims: Any) -> str:
    """A token that looks like a JWT, signed by nobody."""
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
        self.treq = StubTreq(self.server)
        self.identity = self.make()

    def make(self, **settings: Any) -> FxaIdentity:
        defaults: dict[str, Any] = {
            "oauth_url": "http://fxa.example/v1",
            "auth_url": "http://fxa.example/v1",
        }
        return FxaIdentity(self.treq, self.clock, Metrics(), Identity(**defaults | settings))

    def verify(self, token: str = "alice") -> Deferred[Credentials]:
        return Deferred.fromCoroutine(self.identity.verify(token=token))

    def account(self, token: str = "alice") -> Deferred[Account]:
        return Deferred.fromCoroutine(self.identity.account(token=token, credentials=CREDENTIALS))

    def release(self) -> None:
        for server in (self.oauth, self.auth):
            server.hold = False
            server.release()
        self.treq.flush()


class FxaContractTests(IdentityContract, FxaCase):
    """What every driver does."""

    async def make_identity(self) -> FxaIdentity:
        return self.identity

    async def test_heartbeat_names_both(self) -> None:
        """A heartbeat tells of each server by name."""
        self.assertEqual(await self.identity.check(), {"oauth": True, "auth": True})


class FxaCachingContractTests(FxaContractTests):
    """The same with a token cache."""

    async def make_identity(self) -> FxaIdentity:
        return self.make(token_cache_seconds=60)


class ConfigTests(FxaCase):
    """The driver out of the settings."""

    def test_from_config(self) -> None:
        """The setting gives this driver, which connects nowhere before it is asked."""
        settings = load(environ={}, overrides=["identity.driver=fxa"])
        identity = identity_from_config(settings, self.clock)
        self.assertIsInstance(identity, FxaIdentity)
        verifyObject(IIdentity, identity)
        identity.startService()
        return identity.stopService()


class VerifyTests(FxaCase):
    """What the OAuth server is asked, and what is made of its answers."""

    async def test_request(self) -> None:
        """The token goes to /verify as JSON, and nowhere else."""
        await self.identity.verify(token="alice")
        (seen,) = self.oauth.seen
        self.assertEqual((seen.method, seen.path), ("POST", "/v1/verify"))
        self.assertEqual(seen.members, {"token": "alice"})
        self.assertFalse(seen.headers.hasHeader("authorization"))
        self.assertEqual(self.auth.seen, [])

    async def test_all_members(self) -> None:
        """Whatever the server says of a token is kept."""
        self.server.accounts["alice"].profile_changed_at = 1_699_999_999_123
        credentials = await self.identity.verify(token="alice")
        self.assertEqual(
            credentials,
            Credentials(
                uid=ALICE,
                scopes=("profile", "profile:write"),
                profile_changed_at=1_699_999_999_123,
                client_id="dcdb5ae7add825d2",
            ),
        )

    async def test_invalid_token(self) -> None:
        """A token that the server refuses is invalid, however it says so."""
        for said in (error(400, 108), error(400, 109), error(400, 115), error(401, 111)):
            self.oauth.answer = lambda _, said=said: said
            with self.assertRaises(InvalidToken):
                await self.identity.verify(token="alice")

    async def test_not_even_asked(self) -> None:
        """A text that cannot be a token is not sent anywhere."""
        for token in ("", "a b", "a\r\nb: c", "é", "a" * 8193, "a=b"):
            with self.assertRaises(InvalidToken):
                await self.identity.verify(token=token)
            with self.assertRaises(AccountUnknown):
                await self.identity.account(token=token, credentials=CREDENTIALS)
        self.assertEqual((self.oauth.seen, self.auth.seen), ([], []))

    async def test_unavailable(self) -> None:
        """An answer that is none of a verifier leaves the token undecided."""
        for said in (
            error(500, 999),
            error(503, 999),
            error(403, 112),
            error(404, 999),
            error(429, 114),
            Said(status=204, body=b""),
            Said(status=201, members={"user": ALICE}),
            Said(status=302, body=b"", headers={"location": "http://elsewhere.example/"}),
            Said(status=400, body=b"<html>Bad Request</html>"),
            Said(status=401, body=b""),
            Said(body=b""),
            Said(body=b"not JSON"),
            Said(body=b"[" * 60_000),
            Said(members=[]),
            Said(members="alice"),
            Said(body=b"\xff\xfe"),
        ):
            self.oauth.answer = lambda _, said=said: said
            with self.assertRaises(OAuthUnavailable):
                await self.identity.verify(token="alice")

    async def test_lies(self) -> None:
        """A success that is not of the documented form is not believed."""
        good = {"user": ALICE, "client_id": "c", "scope": ["profile"], "profile_changed_at": 1}
        lies = [{key: good[key] for key in good if key != "user"}]
        for name, values in {
            "user": [None, 7, "", "alice", ALICE.upper(), ALICE + "0", ALICE + "\n", [ALICE]],
            "client_id": [7, ["c"], {}],
            "scope": ["profile", {"profile": True}, [7], [None], [["profile"]], ["\ud800"]],
            "profile_changed_at": ["1", True, -1, 1e300, [1], float("nan")],
        }.items():
            lies.extend({**good, name: value} for value in values)
        for members in lies:
            self.oauth.answer = lambda _, members=members: Said(members=members)
            with self.assertRaises(OAuthUnavailable, msg=str(members)):
                await self.identity.verify(token="alice")

    async def test_left_out(self) -> None:
        """Members that may be left out may also be null."""
        for members in (
            {"user": ALICE},
            {"user": ALICE, "client_id": None, "scope": None, "profile_changed_at": None},
        ):
            self.oauth.answer = lambda _, members=members: Said(members=members)
            credentials = await self.identity.verify(token="alice")
            self.assertEqual(credentials, Credentials(uid=ALICE, scopes=()))

    def test_slow(self) -> None:
        """A server that says nothing is given up after the time that is allowed."""
        self.oauth.hold = True
        verifying = self.verify()
        self.treq.flush()
        self.clock.advance(4.9)
        self.assertNoResult(verifying)
        self.clock.advance(0.1)
        self.failureResultOf(verifying, OAuthUnavailable)
        self.treq.flush()
        self.assertEqual(self.oauth.gone, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_stays(self) -> None:
        """An answer in time leaves nothing behind."""
        self.successResultOf(self.verify())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AccountTests(FxaCase):
    """What the auth server is asked, and what is made of its answers."""

    async def test_request(self) -> None:
        """The token goes as a bearer token."""
        await self.identity.account(token="alice", credentials=CREDENTIALS)
        (seen,) = self.auth.seen
        self.assertEqual((seen.method, seen.path), ("GET", "/v1/account/profile"))
        self.assertEqual(seen.headers.getRawHeaders("authorization"), ["Bearer alice"])
        self.assertEqual(self.oauth.seen, [])

    async def test_two_factor(self) -> None:
        """An assurance level of two or more is two-factor authentication."""
        for level, expected in ((0, False), (1, False), (1.9, False), (2, True), (3, True)):
            self.auth.answer = lambda _, level=level: Said(
                members={"authenticatorAssuranceLevel": level}
            )
            account = await self.identity.account(token="alice", credentials=CREDENTIALS)
            self.assertIs(account.two_factor, expected)

    async def test_left_out(self) -> None:
        """What the server leaves out, or says is null, is not there."""
        names = ("email", "locale", "authenticationMethods", "authenticatorAssuranceLevel")
        for members in ({}, dict.fromkeys(names), {"subscriptions": ["x"], "profileChangedAt": 7}):
            self.auth.answer = lambda _, members=members: Said(members=members)
            account = await self.identity.account(token="alice", credentials=CREDENTIALS)
            self.assertEqual(account, Account())

    async def test_account_unknown(self) -> None:
        """A refused token and an unknown account are the same to us."""
        for said in (
            error(401, 110),
            error(401, 102),
            error(400, 102),
            error(404, 102),
            Said(status=401, body=b""),
            Said(status=401, body=b"<html>"),
        ):
            self.auth.answer = lambda _, said=said: said
            with self.assertRaises(AccountUnknown):
                await self.identity.account(token="alice", credentials=CREDENTIALS)

    async def test_refused(self) -> None:
        """Any other refusal is our own fault."""
        for said in (
            error(400, 107),
            error(403, 999),
            error(404, 116),
            error(429, 114),
            Said(status=400, members={"errno": "102"}),
            Said(status=400, members={"errno": 102.0}),
            Said(status=400, body=b"<html>"),
        ):
            self.auth.answer = lambda _, said=said: said
            with self.assertRaises(UpstreamRefused):
                await self.identity.account(token="alice", credentials=CREDENTIALS)

    async def test_unavailable(self) -> None:
        """An answer that is none of an auth server says nothing of the account."""
        for said in (
            error(500, 999),
            error(503, 102),
            Said(status=204, body=b""),
            Said(status=301, body=b"", headers={"location": "http://elsewhere.example/"}),
            Said(body=b""),
            Said(body=b"{"),
            Said(members=[]),
        ):
            self.auth.answer = lambda _, said=said: said
            with self.assertRaises(AuthUnavailable):
                await self.identity.account(token="alice", credentials=CREDENTIALS)

    async def test_lies(self) -> None:
        """A success with a member of another type is not believed."""
        for name, values in {
            "email": [7, True, ["a@b"], {}, "\ud800"],
            "locale": [7, ["en"]],
            "authenticationMethods": ["pwd", [7], [None], {"pwd": 1}],
            "authenticatorAssuranceLevel": ["2", True, [2], -1, float("nan"), float("inf")],
        }.items():
            for value in values:
                self.auth.answer = lambda _, name=name, value=value: Said(members={name: value})
                with self.assertRaises(AuthUnavailable, msg=f"{name}: {value}"):
                    await self.identity.account(token="alice", credentials=CREDENTIALS)

    def test_slow(self) -> None:
        """A server that says nothing is given up after the time that is allowed."""
        self.auth.hold = True
        asking = self.account()
        self.treq.flush()
        self.clock.advance(5)
        self.failureResultOf(asking, AuthUnavailable)


class SingleFlightTests(FxaCase):
    """Concurrent requests with one token."""

    def setUp(self) -> None:
        super().setUp()
        self.oauth.hold = True

    def test_one_request(self) -> None:
        """They verify it once."""
        verifying = [self.verify() for _ in range(5)]
        self.treq.flush()
        self.release()
        results = [self.successResultOf(v) for v in verifying]
        self.assertEqual({result.uid for result in results}, {ALICE})
        self.assertEqual(self.oauth.verified, ["alice"])

    def test_other_tokens(self) -> None:
        """Other tokens are verified on their own."""
        verifying = [self.verify("alice"), self.verify("bob")]
        self.treq.flush()
        self.release()
        uids = [self.successResultOf(v).uid for v in verifying]
        self.assertEqual(len(set(uids)), 2)

    def test_not_remembered(self) -> None:
        """Without a token cache the next request asks again."""
        self.oauth.hold = False
        for _ in range(2):
            self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_failure_is_shared(self) -> None:
        """If it fails it fails for all, and the next request asks again."""
        verifying = [self.verify("nobody") for _ in range(3)]
        self.treq.flush()
        self.release()
        errors = [self.failureResultOf(v, InvalidToken).value for v in verifying]
        self.assertEqual(len({id(e) for e in errors}), 3)
        self.failureResultOf(self.verify("nobody"), InvalidToken)
        self.assertEqual(self.oauth.verified, ["nobody", "nobody"])

    def test_cancelling_one(self) -> None:
        """Who gives up does not disturb the others, even if they began it."""
        verifying = [self.verify() for _ in range(3)]
        self.treq.flush()
        verifying[0].cancel()
        self.failureResultOf(verifying[0], CancelledError)
        self.release()
        for other in verifying[1:]:
            self.assertEqual(self.successResultOf(other).uid, ALICE)
        self.assertEqual(self.oauth.verified, ["alice"])

    def test_cancelling_all(self) -> None:
        """When nobody waits the request is given up, and whoever comes later starts anew."""
        verifying = [self.verify() for _ in range(2)]
        self.treq.flush()
        for waiter in verifying:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.treq.flush()
        self.assertEqual(self.oauth.gone, 1)
        late = self.verify()
        self.treq.flush()
        self.release()
        self.assertEqual(self.successResultOf(late).uid, ALICE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late_comer_has_no_more_time(self) -> None:
        """The time that is allowed is that of the request they share."""
        first = self.verify()
        self.clock.advance(3)
        second = self.verify()
        self.clock.advance(2)
        self.failureResultOf(first, OAuthUnavailable)
        self.failureResultOf(second, OAuthUnavailable)


class TokenCacheTests(FxaCase):
    """Tokens that are trusted for a while."""

    def setUp(self) -> None:
        super().setUp()
        self.identity = self.make(token_cache_seconds=60)

    def test_trusted(self) -> None:
        """A verified token is not asked about again until the time is over."""
        first = self.successResultOf(self.verify())
        self.clock.advance(59)
        self.assertEqual(self.successResultOf(self.verify()), first)
        self.assertEqual(self.oauth.verified, ["alice"])
        self.clock.advance(1)
        self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_not_refreshed_by_use(self) -> None:
        """Using a token does not make it trusted for longer."""
        for _ in range(3):
            self.successResultOf(self.verify())
            self.clock.advance(30)
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_refusals_are_not_kept(self) -> None:
        """A token that is not good now may be good later."""
        self.failureResultOf(self.verify("carol"), InvalidToken)
        self.server.accounts["carol"] = self.server.accounts["alice"]
        self.successResultOf(self.verify("carol"))

    def test_failures_are_not_kept(self) -> None:
        """A failure of the server is over when it is over."""
        self.oauth.answer = lambda _: error(500, 999)
        self.failureResultOf(self.verify(), OAuthUnavailable)
        self.oauth.answer = None
        self.successResultOf(self.verify())

    def test_survives_the_server(self) -> None:
        """A trusted token needs no server."""
        self.successResultOf(self.verify())
        self.oauth.answer = lambda _: error(500, 999)
        self.successResultOf(self.verify())

    def test_forget(self) -> None:
        """Every token of a user is forgotten, and no one else's."""
        self.server.accounts["alice2"] = self.server.accounts["alice"]
        for token in ("alice", "alice2", "bob"):
            self.successResultOf(self.verify(token))
        self.successResultOf(Deferred.fromCoroutine(self.identity.forget(uid=ALICE)))
        del self.server.accounts["alice"]
        self.failureResultOf(self.verify("alice"), InvalidToken)
        self.successResultOf(self.verify("alice2"))
        self.successResultOf(self.verify("bob"))
        self.assertEqual(self.oauth.verified.count("bob"), 1)
        self.assertEqual(self.oauth.verified.count("alice2"), 2)

    def test_forget_while_verifying(self) -> None:
        """An answer from before the user was forgotten is not trusted after it."""
        self.oauth.hold = True
        verifying = self.verify()
        self.treq.flush()
        self.successResultOf(Deferred.fromCoroutine(self.identity.forget(uid=ALICE)))
        self.release()
        self.successResultOf(verifying)
        self.successResultOf(self.verify())
        self.assertEqual(self.oauth.verified, ["alice", "alice"])

    def test_never_longer_than_the_token(self) -> None:
        """A token that says when it ends is trusted until then at most."""
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

    def test_nonsense_about_the_end(self) -> None:
        """An end that is no time is no reason to trust a token for longer or for ever."""
        for exp in ("soon", None, True, float("nan"), float("inf"), -1, [1]):
            token = jwt_like(exp=exp)
            self.server.accounts[token] = self.server.accounts["alice"]
            self.assertIsNone(self.successResultOf(self.verify(token)).expires_at)


class SecrecyTests(FxaCase):
    """A token is seen by the servers and by nobody else."""

    token = "0123456789abcdef" * 4

    def test_nowhere(self) -> None:
        """Neither errors nor logs nor what is kept have it, whatever goes wrong."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.identity = self.make(token_cache_seconds=60)
        echo = {"message": self.token, "errno": 108, "user": self.token, "email": [self.token]}

        def answer(status: int) -> Any:
            return lambda seen: Said(status=status, members=echo, headers={"x": self.token})

        texts: list[str] = []
        for status in (200, 302, 400, 401, 403, 429, 500):
            self.oauth.answer = self.auth.answer = answer(status)
            for failing in (self.verify(self.token), self.account(self.token)):
                failure = self.failureResultOf(failing)
                texts += [str(failure.value), repr(failure.value), failure.getTraceback()]
        self.oauth.answer = None
        self.server.accounts[self.token] = self.server.accounts["alice"]
        texts.append(repr(self.successResultOf(self.verify(self.token))))
        texts.append(repr(vars(self.identity)))
        texts.append(repr(vars(self.identity._trusted)))
        self.oauth.hold = True
        pending = self.verify(self.token[::-1])
        texts.append(repr(vars(self.identity._verifying)))
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        texts += [repr(event) for event in events]
        for text in texts:
            self.assertNotIn(self.token, text)
            self.assertNotIn(self.token[::-1], text)

    def test_redirects_take_it_nowhere(self) -> None:
        """A redirect is not followed with the token in hand."""
        paths: list[str] = []

        def answer(seen: Seen) -> Said:
            paths.append(seen.path)
            return Said(status=307, headers={"location": "/v1/other"})

        self.oauth.answer = self.auth.answer = answer
        self.failureResultOf(self.verify(), OAuthUnavailable)
        self.failureResultOf(self.account(), AuthUnavailable)
        self.assertEqual(paths, ["/v1/verify", "/v1/account/profile"])


class HeartbeatTests(FxaCase):
    """Which of the servers answer."""

    async def test_one_is_broken(self) -> None:
        """A server that fails is told by name."""

        class Broken(FakeFxa):
            def render(self, request: Any) -> Any:
                if request.requestHeaders.getRawHeaders("host") == ["auth.example"]:
                    request.setResponseCode(502)
                    return b""
                return super().render(request)

        self.treq = StubTreq(Broken())
        identity = self.make(auth_url="http://auth.example/v1")
        self.assertEqual(await identity.check(), {"oauth": True, "auth": False})

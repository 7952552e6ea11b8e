"""The identity driver of Firefox Accounts."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from fxprofile.app.services import Services
from fxprofile.drivers.fxa.identity import FxaIdentity
from fxprofile.model.errors import (
    AccountUnknown,
    AuthUnavailable,
    InvalidToken,
    OAuthUnavailable,
    UpstreamRefused,
    UpstreamThrottled,
)
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import ACCOUNT_FIELDS, Account, Credentials
from fxprofile.settings.load import load
from tests.contracts.identity import IdentityContract
from tests.drivers.fxa.driver import CREDENTIALS, FxaCase
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import ALICE, FakeFxa, Said, Seen, error


class FxaContractTests(IdentityContract, FxaCase):
    """The Firefox Accounts driver fulfils the contract."""

    async def make_identity(self) -> FxaIdentity:
        return self.identity

    async def test_heartbeat_names_both_servers(self) -> None:
        """The driver names both servers, for the heartbeat."""
        self.assertEqual(self.identity.servers, ("oauth", "auth"))


class FxaCachingContractTests(FxaContractTests):
    """The Firefox Accounts driver fulfils the contract with a token cache."""

    async def make_identity(self) -> FxaIdentity:
        return self.make(token_cache_seconds=60)


class ConfigTests(FxaCase):
    """The settings select and configure the driver."""

    def test_driver_of_the_settings(self) -> None:
        """The settings select this driver, which connects only when it is used."""
        settings = load(environ={}, overrides=["identity.driver=fxa"])
        services = Services(settings, self.clock)
        self.assertIsInstance(services.identity, FxaIdentity)
        verifyObject(IIdentity, services.identity)
        services.stack.startService()
        self.successResultOf(services.stack.stopService())


class VerifyTests(FxaCase):
    """Requests to the OAuth server, and the interpretation of its responses."""

    async def test_token_is_posted_as_json(self) -> None:
        """The token is posted to /verify as JSON, and sent nowhere else."""
        await self.identity.verify(token="alice")
        (seen,) = self.oauth.seen
        self.assertEqual((seen.method, seen.path), ("POST", "/v1/verify"))
        self.assertEqual(seen.members, {"token": "alice"})
        self.assertFalse(seen.headers.hasHeader("authorization"))
        self.assertEqual(self.auth.seen, [])

    async def test_all_members_become_credentials(self) -> None:
        """All documented members of the response become credentials."""
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

    async def test_rejected_token(self) -> None:
        """A token is invalid if the server responds 400 to 404 with an error about the token."""
        for said in (
            *(error(400, 108), error(400, 109), error(400, 115), error(401, 111), error(401, 110)),
            *(error(403, 108), error(403, 115), error(404, 108), error(404, 102)),
            Said(status=403, members={"error": "invalid_token"}),
        ):
            self.oauth.answer = lambda _, said=said: said
            with self.assertRaises(InvalidToken):
                await self.identity.verify(token="alice")

    async def test_malformed_token_is_not_sent(self) -> None:
        """A text without the form of a token is rejected without a request."""
        for token in ("", "a b", "a\r\nb: c", "é", "a" * 8193, "a=b"):
            with self.assertRaises(InvalidToken):
                await self.identity.verify(token=token)
            with self.assertRaises(AccountUnknown):
                await self.identity.account(token=token, credentials=CREDENTIALS)
        self.assertEqual((self.oauth.seen, self.auth.seen), ([], []))

    async def test_unusable_response_is_an_outage(self) -> None:
        """After an unusable response the OAuth server counts as unavailable."""
        for said in (
            error(500, 999),
            error(503, 999),
            error(403, 112),
            error(404, 999),
            error(404, 116),
            error(405, 108),
            Said(status=403, body=b"<html>"),
            Said(status=404, members={}),
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

    async def test_malformed_success_is_an_outage(self) -> None:
        """A response with status 200 that is not of the documented form is rejected."""
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

    async def test_optional_members_may_be_null(self) -> None:
        """Optional members may be missing or null."""
        for members in (
            {"user": ALICE},
            {"user": ALICE, "client_id": None, "scope": None, "profile_changed_at": None},
        ):
            self.oauth.answer = lambda _, members=members: Said(members=members)
            credentials = await self.identity.verify(token="alice")
            self.assertEqual(credentials, Credentials(uid=ALICE, scopes=()))

    def test_verification_times_out(self) -> None:
        """A request to a server that does not respond ends after the timeout."""
        self.oauth.hold = True
        verifying = self.verify()
        self.agent.flush()
        self.clock.advance(4.9)
        self.assertNoResult(verifying)
        self.clock.advance(0.1)
        self.failureResultOf(verifying, OAuthUnavailable)
        self.agent.flush()
        self.assertEqual(self.oauth.gone, 1)
        self.agent.stopService()
        self.agent.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_response_leaves_no_timer(self) -> None:
        """After a response no timer is left on the clock."""
        self.successResultOf(self.verify())
        self.agent.stopService()
        self.agent.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AccountTests(FxaCase):
    """Requests to the auth server, and the interpretation of its responses."""

    async def test_token_is_sent_as_bearer_token(self) -> None:
        """The token is sent in the Authorization header."""
        await self.identity.account(token="alice", credentials=CREDENTIALS)
        (seen,) = self.auth.seen
        self.assertEqual((seen.method, seen.path), ("GET", "/v1/account/profile"))
        self.assertEqual(seen.headers.getRawHeaders("authorization"), ["Bearer alice"])
        self.assertEqual(self.oauth.seen, [])

    async def test_assurance_level_two_is_two_factor(self) -> None:
        """An assurance level of two or more means two-factor authentication."""
        for level, expected in ((0, False), (1, False), (1.9, False), (2, True), (3, True)):
            self.auth.answer = lambda _, level=level: Said(
                members={"authenticatorAssuranceLevel": level}
            )
            account = await self.identity.account(token="alice", credentials=CREDENTIALS)
            self.assertEqual(account, Account(twoFactorAuthentication=expected))

    async def test_every_field_has_its_name_here(self) -> None:
        """Each known field of the auth server is in the account, under its name here."""
        self.auth.answer = lambda _: Said(
            members={
                "email": "a@example.com",
                "locale": "fr",
                "authenticationMethods": ["pwd", "otp"],
                "authenticatorAssuranceLevel": 2,
                "subscriptions": ["old"],
                "subscriptionsByClientId": {"*": ["vpn"]},
                "metricsEnabled": False,
                "accountDisabledAt": 1_700_000_000_000,
                "accountLockedAt": 1_700_000_000_001,
                "profileChangedAt": 1_700_000_000_002,
            }
        )
        expected = Account(
            email="a@example.com",
            locale="fr",
            amrValues=["pwd", "otp"],
            twoFactorAuthentication=True,
            subscriptions=["vpn"],
            metricsEnabled=False,
            accountDisabledAt=1_700_000_000_000,
            accountLockedAt=1_700_000_000_001,
        )
        account = await self.identity.account(token="alice", credentials=CREDENTIALS)
        self.assertEqual(account, expected)
        self.assertEqual(set(account), set(ACCOUNT_FIELDS))
        self.assertEqual(self.unknown_fields(), 0)

    async def test_subscriptions_of_the_client(self) -> None:
        """A token sees the sorted capabilities of all clients and of its own, each once."""
        by_client = {"*": ["vpn", "all"], "me": ["vpn", "more"], "other": ["secret"]}
        for sent, client_id, expected in (
            ({"subscriptionsByClientId": by_client}, "me", ["all", "more", "vpn"]),
            ({"subscriptionsByClientId": by_client}, "nobody", ["all", "vpn"]),
            ({"subscriptionsByClientId": by_client}, None, ["all", "vpn"]),
            ({"subscriptionsByClientId": {"other": ["secret"]}}, "me", None),
            ({"subscriptionsByClientId": {"*": []}, "subscriptions": ["old"]}, "me", None),
            ({"subscriptionsByClientId": None, "subscriptions": ["z", "a"]}, "me", ["z", "a"]),
            ({"subscriptions": ["z", "a"]}, "me", ["z", "a"]),
            ({"subscriptions": []}, "me", None),
            ({}, "me", None),
        ):
            self.auth.answer = lambda _, sent=sent: Said(members=sent)
            credentials = Credentials(ALICE, ("profile",), client_id=client_id)
            account = await self.identity.account(token="alice", credentials=credentials)
            self.assertEqual(account.get("subscriptions"), expected, (sent, client_id))

    async def test_unknown_fields_are_counted(self) -> None:
        """A field that is not known is dropped, and counted."""
        self.auth.answer = lambda _: Said(members={"email": "a@b", "new": 1, "newer": None})
        account = await self.identity.account(token="alice", credentials=CREDENTIALS)
        self.assertEqual((account, self.unknown_fields()), (Account(email="a@b"), 2))

    def unknown_fields(self) -> float | None:
        registry = self.identity._metrics.registry
        return registry.get_sample_value("fxprofile_unknown_account_fields_total")

    async def test_missing_members_are_left_out(self) -> None:
        """A member that is missing or null is not in the account."""
        names = {name for sent in ACCOUNT_FIELDS.values() for name in sent.names}
        for members in ({}, dict.fromkeys(names), {"profileChangedAt": 7}):
            self.auth.answer = lambda _, members=members: Said(members=members)
            account = await self.identity.account(token="alice", credentials=CREDENTIALS)
            self.assertEqual(account, Account())

    async def test_unknown_account_and_rejected_token(self) -> None:
        """A rejected token and an unknown account both raise AccountUnknown."""
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

    async def test_other_refusals(self) -> None:
        """Any other 4xx response raises UpstreamRefused."""
        for said in (
            error(400, 107),
            error(403, 999),
            error(404, 116),
            Said(status=400, members={"errno": "102"}),
            Said(status=400, members={"errno": 102.0}),
            Said(status=400, body=b"<html>"),
        ):
            self.auth.answer = lambda _, said=said: said
            with self.assertRaises(UpstreamRefused):
                await self.identity.account(token="alice", credentials=CREDENTIALS)

    async def test_retry_after_is_passed_on(self) -> None:
        """After a 429 of either server the error has its Retry-After, in seconds."""
        for header, expected in (
            ("7", 7),
            ("0", 1),
            ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
            ("Tue, 14 Nov 2003 22:14:20 GMT", 1),
            ("9" * 400, 86_400),
            ("-5", 30),
            ("soon", 30),
            (None, 30),
        ):
            said = error(429, 114)
            said.headers = {} if header is None else {"retry-after": header}
            self.oauth.answer = self.auth.answer = lambda _, said=said: said
            for asking in (
                self.identity.verify(token="alice"),
                self.identity.account(token="alice", credentials=CREDENTIALS),
            ):
                with self.assertRaises(UpstreamThrottled) as raised:
                    await asking
                self.assertEqual(raised.exception.retry_after, expected, header)

    async def test_unusable_response_is_an_outage(self) -> None:
        """After an unusable response the auth server counts as unavailable."""
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

    async def test_malformed_success_is_an_outage(self) -> None:
        """A response with status 200 and a member of a wrong type is rejected."""
        for name, values in {
            "email": [7, True, ["a@b"], {}, "\ud800"],
            "locale": [7, ["en"]],
            "authenticationMethods": ["pwd", [7], [None], {"pwd": 1}],
            "authenticatorAssuranceLevel": ["2", True, [2], -1, float("nan"), float("inf")],
            "subscriptions": ["vpn", [7], 1],
            "subscriptionsByClientId": ["vpn", {"*": "vpn"}, {"*": [7]}, {"other": ["\ud800"]}],
            "metricsEnabled": [1, "true", []],
            "accountDisabledAt": ["1", True, -1, 1.5, 2**60],
            "accountLockedAt": [[1]],
        }.items():
            for value in values:
                self.auth.answer = lambda _, name=name, value=value: Said(members={name: value})
                with self.assertRaises(AuthUnavailable, msg=f"{name}: {value}"):
                    await self.identity.account(token="alice", credentials=CREDENTIALS)

    def test_account_request_times_out(self) -> None:
        """A request to a server that does not respond ends after the timeout."""
        self.auth.hold = True
        asking = self.account()
        self.agent.flush()
        self.clock.advance(5)
        self.failureResultOf(asking, AuthUnavailable)


class SecrecyTests(FxaCase):
    """A token is sent to the identity servers and appears nowhere else."""

    token = "0123456789abcdef" * 4

    def test_token_is_in_no_error_log_or_cache(self) -> None:
        """No error, log event or cache contains the token, after any response of the servers."""
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
        texts.append(repr(dict(self.identity._tokens)))
        self.oauth.hold = True
        pending = self.verify(self.token[::-1])
        texts.append(repr(vars(self.identity._verifications)))
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        texts += [repr(event) for event in events]
        for text in texts:
            self.assertNotIn(self.token, text)
            self.assertNotIn(self.token[::-1], text)

    def test_redirects_are_not_followed(self) -> None:
        """A redirect of a server is not followed."""
        paths: list[str] = []

        def answer(seen: Seen) -> Said:
            paths.append(seen.path)
            return Said(status=307, headers={"location": "/v1/other"})

        self.oauth.answer = self.auth.answer = answer
        self.failureResultOf(self.verify(), OAuthUnavailable)
        self.failureResultOf(self.account(), AuthUnavailable)
        self.assertEqual(paths, ["/v1/verify", "/v1/account/profile"])


class HeartbeatTests(FxaCase):
    """The checks of the heartbeat."""

    async def test_broken_server_is_named(self) -> None:
        """The check of a broken server fails, and that of the other one does not."""

        class Broken(FakeFxa):
            def render(self, request: Any) -> Any:
                if request.requestHeaders.getRawHeaders("host") == ["auth.example"]:
                    request.setResponseCode(status)
                    return b""
                return super().render(request)

        self.agent = MemoryAgent(self.clock, Broken())
        identity = self.make(auth_url="http://auth.example/v1")
        for status, answers in ((502, False), (500, False), (503, False), (404, True), (501, True)):
            self.assertIs(await identity.check(server="auth"), answers, status)
            self.assertTrue(await identity.check(server="oauth"))

"""The client libraries of relying parties, and the pages of the accounts server."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import django
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import UserInfo
from django import conf
from fxa.errors import ClientError
from fxa.profile import Client as FxaClient
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.integration import photos
from tests.integration.accounts import AccountsCase, Reply
from tests.support.fakes.oauth import FakeAccount

DEFAULT_ID = "0" * 32
SETTINGS_PAGE = "https://accounts.example.com"


def django_modules() -> tuple[tuple[ModuleType, ...], type[Any]]:
    """Return the modules of allauth, and the backend of mozilla-django-oidc."""
    # Their imports need settings.
    if not conf.settings.configured:
        conf.settings.configure(
            INSTALLED_APPS=[
                *("django.contrib.auth", "django.contrib.contenttypes"),
                *("allauth", "allauth.account", "allauth.socialaccount"),
                "allauth.socialaccount.providers.fxa",
            ],
            MIDDLEWARE=["allauth.account.middleware.AccountMiddleware"],
            SECRET_KEY="secret",
        )
        django.setup()
    from allauth.socialaccount import models
    from allauth.socialaccount.providers.fxa import provider, views
    from mozilla_django_oidc.auth import OIDCAuthenticationBackend

    return (models, provider, views), OIDCAuthenticationBackend


class ClientLibraryTests(AccountsCase):
    """Unmodified client libraries read the profile of a user whose account has every field."""

    async def setUp(self) -> None:
        await super().setUp()
        self.alice = self.account(
            *("profile", "openid"),
            locale="en",
            amr_values=("pwd", "otp"),
            level=2,
            subscriptions={"*": ["all"], "dcdb5ae7add825d2": ["vpn"], "other": ["secret"]},
            metrics_enabled=False,
        )
        self.profile_url = f"{self.daemon.web_url}/v1/profile"
        self.expected = {
            "uid": self.alice.uid,
            "sub": self.alice.uid,
            "email": self.alice.email,
            "locale": "en",
            "amrValues": ["pwd", "otp"],
            "twoFactorAuthentication": True,
            "subscriptions": ["all", "vpn"],
            "metricsEnabled": False,
            "avatar": f"{self.daemon.web_url}/v1/avatar/{self.alice.email[0]}",
            "avatarId": DEFAULT_ID,
            "avatarDefault": False,
        }

    def calling(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Call a function that blocks."""
        return deferToThread(function, *arguments)

    async def test_pyfxa(self) -> None:
        """PyFxA reads the profile, and raises the error of a token that is refused."""
        client = FxaClient(self.daemon.web_url)
        profile = await self.calling(client.get_profile, self.alice.token)
        self.assertEqual(profile, self.expected)
        for ask, expected in (
            (client.get_email, self.alice.email),
            (client.get_uid, self.alice.uid),
            (client.get_avatar_url, self.expected["avatar"]),
        ):
            self.assertEqual(await self.calling(ask, self.alice.token), expected)
        weak = self.account("profile:uid")
        profile = await self.calling(client.get_profile, weak.token)
        self.assertEqual(profile, {"uid": weak.uid, "email": None, "avatar": None})
        for ask, token, code in (
            (client.get_email, weak.token, 403),
            (client.get_avatar_url, weak.token, 403),
            (client.get_uid, "unknown", 401),
        ):
            error = await self.assertFailure(self.calling(ask, token), ClientError)
            self.assertEqual((error.code, error.errno), (code, 100))

    async def test_authlib(self) -> None:
        """Authlib reads the profile as UserInfo, with the token in the header or in a form."""
        token = {"access_token": self.alice.token, "token_type": "Bearer"}
        for method, placement in (("GET", "header"), ("POST", "header"), ("POST", "body")):

            def ask(method: str = method, placement: str = placement) -> UserInfo:
                with OAuth2Session(token=token, token_placement=placement) as session:
                    form = {"data": {"a": "b"}} if placement == "body" else {}
                    response = session.request(method, self.profile_url, timeout=60, **form)
                    response.raise_for_status()
                    in_header = "Authorization" in response.request.headers
                    self.assertEqual(in_header, placement == "header")
                    return UserInfo(response.json())

            info = await self.calling(ask)
            self.assertEqual((info.sub, dict(info)), (self.alice.uid, self.expected))

    async def test_allauth(self) -> None:
        """django-allauth signs a user in with the profile."""
        (models, provider, views), _ = django_modules()
        adapter = views.FirefoxAccountsOAuth2Adapter(None)
        adapter.profile_url = self.profile_url
        # The list of providers is in a database.
        app = models.SocialApp(provider="fxa", client_id=self.alice.client_id)
        adapter.get_provider = lambda: provider.FirefoxAccountsProvider(None, app=app)
        token = models.SocialToken(token=self.alice.token)
        login = await self.calling(adapter.complete_login, None, None, token)
        self.assertEqual(login.account.uid, self.alice.uid)
        self.assertEqual(login.account.extra_data, self.expected)
        self.assertEqual(login.user.email, self.alice.email)

    async def test_mozilla_django_oidc(self) -> None:
        """mozilla-django-oidc reads and accepts the claims of the profile."""
        _, backend_of_oidc = django_modules()
        url = self.profile_url

        class Backend(backend_of_oidc):  # type: ignore[misc, valid-type]
            @staticmethod
            def get_settings(name: str, *default: Any) -> Any:
                known = {"OIDC_OP_USER_ENDPOINT": url, "OIDC_TIMEOUT": 60}
                return known.get(name, *default or ("unused",))

        backend = Backend()
        claims = await self.calling(backend.get_userinfo, self.alice.token, None, None)
        self.assertEqual(claims, self.expected)
        self.assertTrue(backend.verify_claims(claims))

    async def test_firefox_for_mobile(self) -> None:
        """Firefox for Android and iOS, which quote the ETag a second time, get 304."""
        etag = (await self.ask("GET", "/v1/profile", self.alice)).header("ETag")
        headers = {"If-None-Match": f'"{etag}"'}
        reply = await self.ask("GET", "/v1/profile", self.alice, headers=headers)
        self.assertEqual((reply.status, reply.body), (304, b""))


class SettingsPageTests(AccountsCase):
    """The requests of the settings page and the content server, as a browser sends them."""

    async def fetch(
        self,
        method: str,
        path: str,
        who: FakeAccount,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send a preflight, which must allow the request, and the request."""
        sent = {
            "Accept": "application/json",
            "baggage": "sentry-environment=prod",
            "fxa-ci": "1",
            "sentry-trace": f"{'1' * 32}-{'2' * 16}-0",
            "traceparent": f"00-{'1' * 32}-{'2' * 16}-00",
            **(headers or {}),
        }
        names = sorted(
            {"authorization", *map(str.lower, sent)} | ({"content-type"} if body else set())
        )
        preflight = await self.ask(
            *("OPTIONS", path, None),
            headers={
                "Origin": SETTINGS_PAGE,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": ",".join(names),
            },
        )
        self.assertEqual(preflight.status, 204)
        self.assertIn(preflight.header("Access-Control-Allow-Origin"), ("*", SETTINGS_PAGE))
        for header, needed in (("Headers", names), ("Methods", [method.lower()])):
            allowed = preflight.header(f"Access-Control-Allow-{header}") or ""
            self.assertLessEqual(set(needed), set(re.split(r",\s*", allowed.lower())))
        reply = await self.ask(method, path, who, body, {"Origin": SETTINGS_PAGE, **sent})
        self.assertIn(reply.header("Access-Control-Allow-Origin"), ("*", SETTINGS_PAGE))
        return reply

    async def test_settings_page(self) -> None:
        """The settings page shows, changes and removes the name and the avatar."""
        alice = self.account(subscriptions={"*": ["vpn"]}, metrics_enabled=True)
        profile = (await self.fetch("GET", "/v1/profile", alice)).json
        self.assertEqual((profile["metricsEnabled"], profile["subscriptions"]), (True, ["vpn"]))
        reply = await self.fetch("GET", "/v1/subscriptions", alice)
        self.assertEqual(reply.json, {"subscriptions": ["vpn"]})
        reply = await self.fetch("POST", "/v1/display_name", alice, {"displayName": "Alice"})
        self.assertEqual((reply.status, reply.json), (200, {}))
        reply = await self.fetch("GET", "/v1/display_name", alice)
        self.assertEqual(reply.json, {"displayName": "Alice"})
        picture = {"Content-Type": "image/jpeg"}
        body = photos.jpeg(200, 200)
        reply = await self.fetch("POST", "/v1/avatar/upload", alice, body, picture)
        self.assertEqual((reply.status, reply.json["status"]), (201, "ready"))
        avatar = (await self.fetch("GET", "/v1/avatar", alice)).json
        self.assertEqual((avatar["id"], avatar["avatarDefault"]), (reply.json["id"], False))
        profile = (await self.fetch("GET", "/v1/profile", alice)).json
        self.assertEqual(
            (profile["avatar"], profile["avatarId"]), (reply.json["url"], reply.json["id"])
        )
        reply = await self.fetch("DELETE", f"/v1/avatar/{avatar['id']}", alice)
        self.assertEqual((reply.status, reply.json), (200, {}))
        avatar = (await self.fetch("GET", "/v1/avatar", alice)).json
        self.assertEqual((avatar["id"], avatar["avatar"][-1]), (DEFAULT_ID, "A"))

    async def test_refusals_are_readable_by_the_page(self) -> None:
        """A page of another origin can read the errors of refused requests."""
        for who, status in ((self.account("basket"), 403), (FakeAccount("nobody", ""), 401)):
            reply = await self.fetch("GET", "/v1/profile", who)
            self.assertEqual(reply.error, (status, 100))

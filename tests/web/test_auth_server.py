"""The endpoints of the auth server."""

from __future__ import annotations

from tests.contracts.cache import cached, put
from tests.web.service import ALICE, ApiCase

SECRET = "tell-nobody"


class ServerTests(ApiCase):
    """The endpoints with a secret bearer token."""

    secret = SECRET

    async def test_drop_cache_removes_the_profile(self) -> None:
        """DELETE /v1/cache removes the cached profile of a user."""
        await put(self.cache, ALICE, "full", "{}")
        reply = await self.ask("DELETE", f"/v1/cache/{ALICE}", token=SECRET)
        self.assertEqual((reply.status, reply.json), (200, {}))
        self.assertIsNone(await cached(self.cache, ALICE, "full"))

    async def test_set_display_name(self) -> None:
        """
        POST /v1/_display_name sets the name of a user, by the rules of the user's own
        endpoint.
        """
        path = f"/v1/_display_name/{ALICE}"
        reply = await self.ask("POST", path, token=SECRET, body=b'{"name": "Alice"}')
        self.assertEqual((reply.status, reply.json), (200, {}))
        reply = await self.ask("GET", "/v1/display_name")
        self.assertEqual(reply.json, {"displayName": "Alice"})
        reply = await self.ask("POST", path, token=SECRET, body=b'{"name": "\\u0007"}')
        self.assertEqual((reply.status, reply.json["errno"]), (400, 101))

    async def test_other_tokens_are_401(self) -> None:
        """Any other token is 401, also a user's."""
        for token in ("alice", SECRET + "x", SECRET[:-1], None):
            for method, path in (
                ("DELETE", f"/v1/cache/{ALICE}"),
                ("POST", f"/v1/_display_name/{ALICE}"),
            ):
                reply = await self.ask(method, path, token=token, body=b'{"name": "x"}')
                self.assertEqual((reply.status, reply.json["errno"]), (401, 100))

    async def test_invalid_uid_is_404(self) -> None:
        """An invalid uid is 404."""
        reply = await self.ask("DELETE", "/v1/cache/somebody", token=SECRET)
        self.assertEqual(reply.status, 404)

    async def test_secret_is_not_accepted_as_a_user_token(self) -> None:
        """The secret is not accepted where a user's token is required."""
        self.assertEqual((await self.ask("GET", "/v1/uid", token=SECRET)).status, 401)


class NoServerTests(ApiCase):
    """A service without a secret bearer token."""

    async def test_endpoints_are_404_without_secret(self) -> None:
        """Without a secret the endpoints are 404, for any token and method."""
        for token in ("", "None", "alice", None):
            for path in (f"/v1/cache/{ALICE}", f"/v1/_display_name/{ALICE}"):
                for method in ("DELETE", "POST", "GET"):
                    reply = await self.ask(method, path, token=token)
                    self.assertEqual((reply.status, reply.json["errno"]), (404, 101))

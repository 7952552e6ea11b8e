"""What the auth server may ask."""

from __future__ import annotations

from tests.web.service import ALICE, ApiCase

SECRET = "tell-nobody"


class ServerTests(ApiCase):
    """The endpoints behind the secret bearer token."""

    secret = SECRET

    async def test_drop_cache(self) -> None:
        """What is kept of a user is forgotten."""
        await self.cache.set(uid=ALICE, variant="profile", value="{}")
        reply = await self.ask("DELETE", f"/v1/cache/{ALICE}", token=SECRET)
        self.assertEqual((reply.status, reply.json), (200, {}))
        self.assertIsNone(await self.cache.get(uid=ALICE, variant="profile"))

    async def test_set_name(self) -> None:
        """The name of a user is set, with the rules that their own endpoint has."""
        path = f"/v1/_display_name/{ALICE}"
        reply = await self.ask("POST", path, token=SECRET, body=b'{"name": "Alice"}')
        self.assertEqual((reply.status, reply.json), (200, {}))
        reply = await self.ask("GET", "/v1/display_name")
        self.assertEqual(reply.json, {"displayName": "Alice"})
        reply = await self.ask("POST", path, token=SECRET, body=b'{"name": "\\u0007"}')
        self.assertEqual((reply.status, reply.json["errno"]), (400, 101))

    async def test_other_tokens(self) -> None:
        """Any other token is 401, a user's included."""
        for token in ("alice", SECRET + "x", SECRET[:-1], None):
            for method, path in (
                ("DELETE", f"/v1/cache/{ALICE}"),
                ("POST", f"/v1/_display_name/{ALICE}"),
            ):
                reply = await self.ask(method, path, token=token, body=b'{"name": "x"}')
                self.assertEqual((reply.status, reply.json["errno"]), (401, 100))

    async def test_bad_uid(self) -> None:
        """A uid that cannot be is 404."""
        reply = await self.ask("DELETE", "/v1/cache/somebody", token=SECRET)
        self.assertEqual(reply.status, 404)

    async def test_not_for_users(self) -> None:
        """The secret is no user's token."""
        self.assertEqual((await self.ask("GET", "/v1/uid", token=SECRET)).status, 401)


class NoServerTests(ApiCase):
    """A service without a secret bearer token."""

    async def test_not_there(self) -> None:
        """The endpoints are not there, whatever the token and the method."""
        for token in ("", "None", "alice", None):
            for path in (f"/v1/cache/{ALICE}", f"/v1/_display_name/{ALICE}"):
                for method in ("DELETE", "POST", "GET"):
                    reply = await self.ask(method, path, token=token)
                    self.assertEqual((reply.status, reply.json["errno"]), (404, 101))

"""Cached profiles and verified tokens spare requests to the identity servers."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.integration.accounts import SECRET, AccountsCase, event
from tests.support.fakes.oauth import FakeAccount
from tests.support.servers import redis
from tests.support.servers.redis import RedisServer

BASIC = ("profile:display_name", "profile:email", "profile:uid")


class ProfileCacheTests:
    """Behaviour of the service with each cache driver."""

    def asked(self) -> tuple[int, int]:
        """Return how often the OAuth and the auth server were asked since the last call."""
        counts = len(self.oauth.seen), len(self.auth.seen)
        self.oauth.seen.clear()
        self.auth.seen.clear()
        return counts

    async def locale(self, who: FakeAccount, locale: str, path: str = "/v1/profile") -> Any:
        """Change the locale of an account, and return the one that the profile shows."""
        who.locale = locale
        return (await self.profile(who)).get("locale")

    async def test_second_read_is_served_from_the_cache(self) -> None:
        """A cached profile costs the verification of the token and nothing else."""
        for scopes in (("profile",), BASIC):
            alice = self.account(*scopes, locale="en")
            first = await self.profile(alice)
            self.assertEqual(self.asked(), (1, 1))
            for _ in range(3):
                self.assertEqual(await self.profile(alice), first)
            self.assertEqual(self.asked(), (3, 0))
            other = self.account(*reversed(scopes), locale="en")
            other.uid = alice.uid
            self.assertEqual(await self.profile(other), first)
            self.assertEqual(self.asked(), (1, 0), "another token with the same scopes")

    async def test_tokens_share_entries_by_visible_fields(self) -> None:
        """Tokens of different scopes share a cached profile if they see the same fields."""
        full = self.account("profile", locale="en")
        shown = set(await self.profile(full))
        for scopes, fields, asked in (
            (("profile", "profile:write"), shown, (2, 0)),
            (("profile", "openid"), shown | {"sub"}, (2, 1)),
            (("profile:email",), {"email"}, (2, 1)),
            ((*BASIC, "profile:locale"), {"uid", "email", "locale"}, (2, 1)),
            (BASIC[1:], {"uid", "email"}, (2, 1)),
        ):
            other = self.account(*scopes, locale="en", email=full.email)
            other.uid = full.uid
            self.asked()
            for _ in range(2):
                self.assertEqual(set(await self.profile(other)), fields, scopes)
            self.assertEqual(self.asked(), asked, scopes)

    async def test_changes_invalidate_the_profile(self) -> None:
        """A write, an event, the auth server's request and a newer token each invalidate."""
        alice = self.account("profile", locale="a", profile_changed_at=1_000)
        writer = self.account()
        writer.uid = alice.uid
        self.assertEqual(await self.locale(alice, "a"), "a")
        self.assertEqual(await self.locale(alice, "b"), "a")

        await self.set_name(writer, "Alice")
        self.assertEqual(await self.locale(alice, "c"), "c")
        self.assertEqual(await self.locale(alice, "d"), "c")

        await self.ask("DELETE", f"/v1/cache/{alice.uid}", SECRET)
        self.assertEqual(await self.locale(alice, "e"), "e")

        await self.queue("events").send(body=event("profileDataChanged", alice.uid))

        async def noticed() -> bool:
            return await self.locale(alice, "f") == "f"

        await self.until(noticed, "the event had no effect")

        alice.profile_changed_at = 2_000
        self.assertEqual(await self.locale(alice, "g"), "g")
        alice.profile_changed_at = 1_500
        self.assertEqual(await self.locale(alice, "h"), "g", "an older token invalidates nothing")
        alice.profile_changed_at = None
        self.assertEqual(await self.locale(alice, "h"), "g")

    async def test_concurrent_reads_are_shared(self) -> None:
        """Concurrent requests for the same profile read it once."""
        alice = self.account("profile")
        self.auth.hold = True
        waiting = [self.profile(alice) for _ in range(20)]
        waiting.append(self.release())
        profiles = (await self.all_of(*waiting))[:-1]
        self.assertEqual(len({str(profile) for profile in profiles}), 1)
        self.assertEqual(len(self.auth.seen), 1)

    async def release(self) -> None:
        async def all_are_verified() -> bool:
            requests = await self.ask("GET", "/v1/uid", self.account())
            return requests.status == 200 and bool(self.auth.held)

        await self.until(all_are_verified, "the auth server is not asked")
        self.auth.hold = False
        self.auth.release()


class MemoryCacheTests(ProfileCacheTests, AccountsCase):
    """Profiles are cached in the memory of the process."""


class TokenCacheTests(AccountsCase):
    """Verified tokens are cached with ``identity.token_cache_seconds``."""

    settings: ClassVar[dict[str, object]] = {"identity.token_cache_seconds": 600}

    async def test_cached_token_and_profile_need_no_server(self) -> None:
        """A cached profile and a cached token are served without any identity server."""
        alice = self.account("profile")
        first = await self.profile(alice)
        await self.close(self.place.oauth_port)
        await self.close(self.place.auth_port)
        for _ in range(3):
            self.assertEqual(await self.profile(alice), first)
        self.assertEqual((len(self.oauth.seen), len(self.auth.seen)), (1, 1))
        reply = await self.ask("GET", "/v1/uid", self.account())
        self.assertEqual(reply.error, (503, 104))

    async def test_password_change_invalidates_tokens(self) -> None:
        """A password change invalidates cached tokens; a profile change does not."""
        alice, bob = self.account("profile"), self.account("profile")
        events = self.queue("events")
        for who in (alice, bob):
            await self.profile(who)
            del self.accounts[who.token]
        await events.send(body=event("profileDataChanged", bob.uid))
        await events.send(body=event("passwordChange", alice.uid))

        async def refused() -> bool:
            return (await self.ask("GET", "/v1/profile", alice)).status == 401

        await self.until(refused, "the token is still accepted")
        self.assertEqual((await self.ask("GET", "/v1/uid", bob)).json, {"uid": bob.uid})

    async def test_deleted_account_invalidates_tokens(self) -> None:
        """Deleting an account invalidates its cached tokens."""
        alice = self.account("profile")
        await self.profile(alice)
        del self.accounts[alice.token]
        await self.queue("events").send(body=event("delete", alice.uid))

        async def refused() -> bool:
            return (await self.ask("GET", "/v1/uid", alice)).status == 401

        await self.until(refused, "the token is still accepted")

    async def test_refused_tokens_are_not_cached(self) -> None:
        """A refused token is verified again on each request."""
        for _ in range(2):
            self.assertEqual((await self.ask("GET", "/v1/uid", "unknown")).error, (401, 100))
        self.assertEqual(self.oauth.verified, ["unknown"] * 2)


class RedisCacheTests(ProfileCacheTests, AccountsCase):
    """Profiles are cached in Redis."""

    skip = redis.missing()
    redis: ClassVar[RedisServer | None] = None

    async def setUp(self) -> None:
        if RedisCacheTests.redis is None:
            RedisCacheTests.redis = RedisServer(password="redis-passw0rd")
            RedisCacheTests.redis.start()
            RedisCacheTests.settings = {"cache.driver": "redis"}
            RedisCacheTests.environ = {"FXPROFILE_CACHE__URL": RedisCacheTests.redis.url()}
        await super().setUp()

    async def test_outage_of_redis_fails_no_request(self) -> None:
        """While Redis is down requests succeed without it; afterwards it is used again."""
        alice = self.account("profile", "profile:write")
        await self.set_name(alice, "Alice")
        kept = self.account("profile", locale="en")
        await self.profile(kept)
        self.asked()
        await self.profile(kept)
        self.assertEqual(self.asked(), (1, 0))
        self.redis.stop()
        try:
            await self.all_of(*(self.profile(kept) for _ in range(10)))
            await self.set_name(alice, "Also Alice")
            self.assertEqual((await self.profile(alice))["displayName"], "Also Alice")
            reply = await self.ask("DELETE", f"/v1/cache/{kept.uid}", SECRET)
            self.assertEqual(reply.status, 200)
            heartbeat = await self.ask("GET", "/__heartbeat__", None)
            self.assertEqual(heartbeat.status, 200)
            self.assertIn("without the cache", self.daemon.output)
        finally:
            self.redis.start()

        await self.until_kept(kept)

    async def test_hanging_redis_fails_no_request(self) -> None:
        """While Redis hangs requests succeed, and writes are visible at once."""
        alice, writer = self.account("profile"), self.account()
        writer.uid = alice.uid
        first = await self.profile(alice)
        self.redis.freeze()
        try:
            self.assertEqual(await self.profile(alice), first)
            self.assertEqual(await self.profile(alice), first)
            await self.set_name(writer, "Alice")
            self.assertEqual((await self.profile(alice))["displayName"], "Alice")
        finally:
            self.redis.thaw()
        await self.until_kept(alice)
        self.assertEqual((await self.profile(alice))["displayName"], "Alice")

    async def until_kept(self, who: FakeAccount) -> None:
        """Wait until the daemon uses Redis again."""

        async def kept() -> bool:
            self.asked()
            await self.profile(who)
            return self.asked() == (1, 0)

        await self.until(kept, "Redis is not used again")

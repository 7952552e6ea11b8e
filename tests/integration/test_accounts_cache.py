"""A profile that is kept is read without asking anybody who need not be asked."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.integration.accounts import SECRET, AccountsCase, event
from tests.support.fakes.oauth import FakeAccount
from tests.support.servers import redis
from tests.support.servers.redis import RedisServer

BASIC = ("profile:display_name", "profile:email", "profile:uid")


class Kept:
    """What holds for each driver of the cache."""

    def asked(self) -> tuple[int, int]:
        """How often the OAuth and the auth server were asked since this was last called."""
        counts = len(self.oauth.seen), len(self.auth.seen)
        self.oauth.seen.clear()
        self.auth.seen.clear()
        return counts

    async def locale(self, who: FakeAccount, locale: str, path: str = "/v1/profile") -> Any:
        """The auth server has another locale of a user now: what does the profile say?"""
        who.locale = locale
        return (await self.profile(who)).get("locale")

    async def test_kept(self) -> None:
        """A kept profile is read from the cache, after the token was verified."""
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
            self.assertEqual(self.asked(), (1, 0), "another token for the same")

    async def test_not_kept(self) -> None:
        """What other scopes show is not kept, and what is kept is not shown to them."""
        full = self.account("profile", locale="en")
        await self.profile(full)
        self.asked()
        for scopes, fields in (
            (("profile:email",), {"email"}),
            (("profile", "openid"), {"uid", "email", "locale", "avatar", "avatarDefault", "sub"}),
            (("profile", "profile:write"), set(await self.profile(full))),
            ((*BASIC, "profile:locale"), {"uid", "email", "locale"}),
            (BASIC[1:], {"uid", "email"}),
        ):
            other = self.account(*scopes, locale="en", email="other@example.com")
            other.uid = full.uid
            self.asked()
            for _ in range(2):
                self.assertEqual(set(await self.profile(other)), fields)
            self.assertEqual(self.asked(), (2, 2), scopes)

    async def test_invalidation(self) -> None:
        """A write, an event, the auth server's word and a newer token each end what is kept."""
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
        self.assertEqual(await self.locale(alice, "h"), "g", "an older token ends nothing")
        alice.profile_changed_at = None
        self.assertEqual(await self.locale(alice, "h"), "g")

    async def test_no_stampede(self) -> None:
        """Many who want the same profile at one time have it read once."""
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

        await self.until(all_are_verified, "nobody asks the auth server")
        self.auth.hold = False
        self.auth.release()


class MemoryTests(Kept, AccountsCase):
    """In the memory of the process."""


class TokenCacheTests(AccountsCase):
    """Tokens that are trusted for a while."""

    settings: ClassVar[dict[str, object]] = {"identity.token_cache_seconds": 600}

    async def test_nobody_is_asked(self) -> None:
        """A kept profile of a trusted token is read without asking anybody at all."""
        alice = self.account("profile")
        first = await self.profile(alice)
        await self.close(self.place.oauth_port)
        await self.close(self.place.auth_port)
        for _ in range(3):
            self.assertEqual(await self.profile(alice), first)
        self.assertEqual((len(self.oauth.seen), len(self.auth.seen)), (1, 1))
        reply = await self.ask("GET", "/v1/uid", self.account())
        self.assertEqual(reply.error, (503, 104))

    async def test_events(self) -> None:
        """Who changed the password has no token that is trusted; a mere change does not matter."""
        alice, bob = self.account("profile"), self.account("profile")
        events = self.queue("events")
        for who in (alice, bob):
            await self.profile(who)
            del self.accounts[who.token]
        await events.send(body=event("profileDataChanged", bob.uid))
        await events.send(body=event("passwordChange", alice.uid))

        async def refused() -> bool:
            return (await self.ask("GET", "/v1/profile", alice)).status == 401

        await self.until(refused, "the token is still trusted")
        self.assertEqual((await self.ask("GET", "/v1/uid", bob)).json, {"uid": bob.uid})

    async def test_deleted(self) -> None:
        """The tokens of a deleted account are trusted no longer."""
        alice = self.account("profile")
        await self.profile(alice)
        del self.accounts[alice.token]
        await self.queue("events").send(body=event("delete", alice.uid))

        async def refused() -> bool:
            return (await self.ask("GET", "/v1/uid", alice)).status == 401

        await self.until(refused, "the token is still trusted")

    async def test_refused_tokens(self) -> None:
        """That a token is not good is asked again each time."""
        for _ in range(2):
            self.assertEqual((await self.ask("GET", "/v1/uid", "unknown")).error, (401, 100))
        self.assertEqual(self.oauth.verified, ["unknown"] * 2)


class RedisTests(Kept, AccountsCase):
    """In Redis."""

    skip = redis.missing()
    redis: ClassVar[RedisServer | None] = None

    async def setUp(self) -> None:
        if RedisTests.redis is None:
            RedisTests.redis = RedisServer(password="redis-passw0rd")
            RedisTests.redis.start()
            RedisTests.settings = {"cache.driver": "redis"}
            RedisTests.environ = {"FXPROFILE_CACHE__URL": RedisTests.redis.url()}
        await super().setUp()

    async def test_killed(self) -> None:
        """While Redis is dead the service goes on without it; later it is used again."""
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

    async def test_hangs(self) -> None:
        """A Redis that says nothing costs a moment, and no answer."""
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
        """Wait until the daemon has found Redis again."""

        async def kept() -> bool:
            self.asked()
            await self.profile(who)
            return self.asked() == (1, 0)

        await self.until(kept, "Redis was not found again")

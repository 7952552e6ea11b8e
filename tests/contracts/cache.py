"""The contract of profile caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface.verify import verifyObject

from fxprofile.model.ports import IProfileCache

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

ALICE, BOB = "a11ce000" * 4, "b0b00000" * 4


async def put(cache: Any, uid: str, variant: str, value: str) -> None:
    """Cache a text in the user's current generation."""
    generation = (await cache.lookup(uid=uid, variant=variant)).generation
    await cache.store(uid=uid, variant=variant, value=value, generation=generation)


async def cached(cache: Any, uid: str, variant: str) -> str | None:
    """Return the cached text, or None."""
    value: str | None = (await cache.lookup(uid=uid, variant=variant)).value
    return value


class ProfileCacheContract(_Base):
    """Mixed into a test case that makes the driver."""

    #: A time to live that :meth:`pass_time` can outlast.
    ttl = 60.0

    async def make_cache(self, *, ttl: float) -> Any:
        """Return the driver, empty."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the driver."""
        raise NotImplementedError

    async def test_cache_provides_its_interface(self) -> None:
        """The driver has every method of the interface."""
        verifyObject(IProfileCache, await self.make_cache(ttl=self.ttl))

    async def test_lookup_of_an_unknown_user(self) -> None:
        """A lookup of a text that was never stored returns None."""
        cache = await self.make_cache(ttl=self.ttl)
        self.assertIsNone(await cached(cache, ALICE, "full"))

    async def test_texts_are_returned_unchanged(self) -> None:
        """A stored text is returned unchanged, with any characters."""
        cache = await self.make_cache(ttl=self.ttl)
        for value in [
            '{"email": "a@b"}',
            "",
            "né \u2603 \U0001f600\r\n\x00 $3\r\n",
            "7",
            "x" * 70_000,
        ]:
            await put(cache, ALICE, "full", value)
            self.assertEqual(await cached(cache, ALICE, "full"), value)

    async def test_users_and_variants_are_separate(self) -> None:
        """A text is returned only for its own user and variant."""
        cache = await self.make_cache(ttl=self.ttl)
        await put(cache, ALICE, "full", "1")
        self.assertIsNone(await cached(cache, ALICE, "basic"))
        self.assertIsNone(await cached(cache, BOB, "full"))
        await put(cache, ALICE, "basic", "2")
        await put(cache, BOB, "full", "3")
        self.assertEqual(await cached(cache, ALICE, "full"), "1")
        self.assertEqual(await cached(cache, ALICE, "basic"), "2")
        self.assertEqual(await cached(cache, BOB, "full"), "3")

    async def test_ambiguous_names_are_separate(self) -> None:
        """Users and variants whose names join to the same text do not share an entry."""
        cache = await self.make_cache(ttl=self.ttl)
        names = [("a", "b:c"), ("a:b", "c"), ("a*", "c"), ("a b", "c"), ("é", "c"), ("a\r\nb", "c")]
        for uid, variant in names:
            await put(cache, uid, variant, f"{uid}/{variant}")
        for uid, variant in names:
            self.assertEqual(await cached(cache, uid, variant), f"{uid}/{variant}")
        await cache.invalidate(uid="a*")
        self.assertEqual(await cached(cache, "a b", "c"), "a b/c")
        self.assertIsNone(await cached(cache, "a*", "c"))

    async def test_invalidation_removes_all_variants_of_the_user(self) -> None:
        """After an invalidation no variant of the user is returned; other users are unaffected."""
        cache = await self.make_cache(ttl=self.ttl)
        for uid in (ALICE, BOB):
            for variant in ("full", "basic"):
                await put(cache, uid, variant, uid)
        await cache.invalidate(uid=ALICE)
        self.assertIsNone(await cached(cache, ALICE, "full"))
        self.assertIsNone(await cached(cache, ALICE, "basic"))
        self.assertEqual(await cached(cache, BOB, "full"), BOB)
        self.assertEqual(await cached(cache, BOB, "basic"), BOB)

    async def test_invalidation_without_entries(self) -> None:
        """Invalidating a user without entries has no effect on later stores."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.invalidate(uid=ALICE)
        await cache.invalidate(uid=ALICE)
        await put(cache, ALICE, "full", "1")
        self.assertEqual(await cached(cache, ALICE, "full"), "1")

    async def test_lookups_do_not_advance_the_generation(self) -> None:
        """Lookups and stores leave the generation as it is."""
        cache = await self.make_cache(ttl=self.ttl)
        first = await cache.lookup(uid=ALICE, variant="full")
        await put(cache, ALICE, "full", "1")
        second = await cache.lookup(uid=ALICE, variant="basic")
        self.assertEqual(first.generation, second.generation)

    async def test_store_from_an_earlier_generation_is_refused(self) -> None:
        """A text whose lookup preceded an invalidation is not stored."""
        cache = await self.make_cache(ttl=self.ttl)
        for _ in range(2):
            before = await cache.lookup(uid=ALICE, variant="full")
            await cache.invalidate(uid=ALICE)
            await cache.store(uid=ALICE, variant="full", value="old", generation=before.generation)
            after = await cache.lookup(uid=ALICE, variant="full")
            self.assertIsNone(after.value)
            self.assertNotEqual(after.generation, before.generation)
            await cache.store(uid=ALICE, variant="full", value="new", generation=after.generation)
            self.assertEqual(await cached(cache, ALICE, "full"), "new")

    async def test_invalidation_does_not_affect_stores_of_other_users(self) -> None:
        """A text of one user is stored although another user was invalidated meanwhile."""
        cache = await self.make_cache(ttl=self.ttl)
        lookup = await cache.lookup(uid=BOB, variant="full")
        await cache.invalidate(uid=ALICE)
        await cache.store(uid=BOB, variant="full", value="1", generation=lookup.generation)
        self.assertEqual(await cached(cache, BOB, "full"), "1")

    async def test_later_account_change_advances_the_generation(self) -> None:
        """A lookup that knows of a later account change sees no earlier text; others do."""
        cache = await self.make_cache(ttl=self.ttl)
        first = await cache.lookup(uid=ALICE, variant="full", changed_at=1_700_000_000_000)
        await cache.store(uid=ALICE, variant="full", value="1", generation=first.generation)
        for changed_at in (1_700_000_000_000, 5, 0):
            lookup = await cache.lookup(uid=ALICE, variant="full", changed_at=changed_at)
            self.assertEqual((lookup.value, lookup.generation), ("1", first.generation))
        later = await cache.lookup(uid=ALICE, variant="full", changed_at=1_700_000_000_001)
        self.assertIsNone(later.value)
        await cache.store(uid=ALICE, variant="full", value="old", generation=first.generation)
        await cache.store(uid=ALICE, variant="full", value="2", generation=later.generation)
        for changed_at in (0, 1_700_000_000_001):
            lookup = await cache.lookup(uid=ALICE, variant="full", changed_at=changed_at)
            self.assertEqual(lookup.value, "2")

    async def test_first_account_change_advances_the_generation(self) -> None:
        """A lookup that knows of an account change sees no text from a lookup that did not."""
        cache = await self.make_cache(ttl=self.ttl)
        await put(cache, ALICE, "full", "1")
        lookup = await cache.lookup(uid=ALICE, variant="full", changed_at=1)
        self.assertIsNone(lookup.value)

    async def test_variant_may_have_any_name(self) -> None:
        """A variant named like a field of the driver is a variant like any other."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.invalidate(uid=ALICE)
        for name in ("generation", "changed"):
            self.assertIsNone(await cached(cache, ALICE, name))
            await put(cache, ALICE, name, "9")
            self.assertEqual(await cached(cache, ALICE, name), "9")
        self.assertNotEqual((await cache.lookup(uid=ALICE, variant="full")).generation, "9")

    async def test_entries_expire(self) -> None:
        """A text is not returned after its time to live."""
        cache = await self.make_cache(ttl=self.ttl)
        await put(cache, ALICE, "full", "1")
        await self.pass_time(self.ttl * 1.1)
        self.assertIsNone(await cached(cache, ALICE, "full"))

    async def test_each_variant_expires_on_its_own(self) -> None:
        """Storing one variant does not extend the life of another."""
        cache = await self.make_cache(ttl=self.ttl)
        await put(cache, ALICE, "full", "1")
        await self.pass_time(self.ttl * 0.6)
        await put(cache, ALICE, "basic", "2")
        await self.pass_time(self.ttl * 0.6)
        self.assertIsNone(await cached(cache, ALICE, "full"))
        self.assertEqual(await cached(cache, ALICE, "basic"), "2")

    async def test_check_of_a_working_cache_succeeds(self) -> None:
        """The check of a working cache raises nothing."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.check()

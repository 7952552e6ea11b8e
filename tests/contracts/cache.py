"""What every profile cache does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface.verify import verifyObject

from fxprofile.model.ports import IProfileCache

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

ALICE, BOB = "a11ce000" * 4, "b0b00000" * 4


class CacheContract(_Base):
    """Mixed into a test case that makes the driver."""

    #: A time to live that :meth:`pass_time` can outlast.
    ttl = 60.0

    async def make_cache(self, *, ttl: float) -> Any:
        """The driver, empty."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let so much time go by for the driver."""
        raise NotImplementedError

    async def test_interface(self) -> None:
        """The driver has every method of the interface."""
        verifyObject(IProfileCache, await self.make_cache(ttl=self.ttl))

    async def test_empty(self) -> None:
        """What was never set is None."""
        cache = await self.make_cache(ttl=self.ttl)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))

    async def test_set_and_get(self) -> None:
        """A text comes back as it was, whatever is in it."""
        cache = await self.make_cache(ttl=self.ttl)
        for value in [
            '{"email": "a@b"}',
            "",
            "né \u2603 \U0001f600\r\n\x00 $3\r\n",
            "7",
            "x" * 70_000,
        ]:
            await cache.set(uid=ALICE, variant="profile", value=value)
            self.assertEqual(await cache.get(uid=ALICE, variant="profile"), value)

    async def test_users_and_variants_are_apart(self) -> None:
        """What is kept for one user and variant is not seen by another."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertIsNone(await cache.get(uid=ALICE, variant="basic"))
        self.assertIsNone(await cache.get(uid=BOB, variant="profile"))
        await cache.set(uid=ALICE, variant="basic", value="2")
        await cache.set(uid=BOB, variant="profile", value="3")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")
        self.assertEqual(await cache.get(uid=ALICE, variant="basic"), "2")
        self.assertEqual(await cache.get(uid=BOB, variant="profile"), "3")

    async def test_names_cannot_be_mixed_up(self) -> None:
        """Users and variants whose names join to the same text stay apart."""
        cache = await self.make_cache(ttl=self.ttl)
        names = [("a", "b:c"), ("a:b", "c"), ("a*", "c"), ("a b", "c"), ("é", "c"), ("a\r\nb", "c")]
        for uid, variant in names:
            await cache.set(uid=uid, variant=variant, value=f"{uid}/{variant}")
        for uid, variant in names:
            self.assertEqual(await cache.get(uid=uid, variant=variant), f"{uid}/{variant}")
        await cache.drop(uid="a*")
        self.assertEqual(await cache.get(uid="a b", variant="c"), "a b/c")
        self.assertIsNone(await cache.get(uid="a*", variant="c"))

    async def test_drop(self) -> None:
        """Dropping a user forgets every variant, and nobody else's."""
        cache = await self.make_cache(ttl=self.ttl)
        for uid in (ALICE, BOB):
            for variant in ("profile", "basic"):
                await cache.set(uid=uid, variant=variant, value=uid)
        await cache.drop(uid=ALICE)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))
        self.assertIsNone(await cache.get(uid=ALICE, variant="basic"))
        self.assertEqual(await cache.get(uid=BOB, variant="profile"), BOB)
        self.assertEqual(await cache.get(uid=BOB, variant="basic"), BOB)

    async def test_drop_nothing(self) -> None:
        """Dropping a user of whom nothing is kept is harmless, also when repeated."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.drop(uid=ALICE)
        await cache.drop(uid=ALICE)
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")

    async def test_generation(self) -> None:
        """What was read before a user was dropped is not kept after it."""
        cache = await self.make_cache(ttl=self.ttl)
        before = await cache.generation(uid=ALICE)
        self.assertEqual(await cache.generation(uid=ALICE), before)
        await cache.set(uid=ALICE, variant="profile", value="1", generation=before)
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")
        await cache.drop(uid=ALICE)
        await cache.set(uid=ALICE, variant="profile", value="2", generation=before)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))
        after = await cache.generation(uid=ALICE)
        self.assertNotEqual(after, before)
        await cache.set(uid=ALICE, variant="profile", value="3", generation=after)
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "3")
        await cache.drop(uid=ALICE)
        self.assertNotEqual(await cache.generation(uid=ALICE), after)

    async def test_generation_of_another(self) -> None:
        """Dropping one user stops nobody from keeping another."""
        cache = await self.make_cache(ttl=self.ttl)
        generation = await cache.generation(uid=BOB)
        await cache.drop(uid=ALICE)
        await cache.set(uid=BOB, variant="profile", value="1", generation=generation)
        self.assertEqual(await cache.get(uid=BOB, variant="profile"), "1")

    async def test_generation_is_no_variant(self) -> None:
        """A variant may have any name."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.drop(uid=ALICE)
        self.assertIsNone(await cache.get(uid=ALICE, variant="generation"))
        await cache.set(uid=ALICE, variant="generation", value="a text")
        generation = await cache.generation(uid=ALICE)
        self.assertNotEqual(generation, "a text")
        await cache.set(uid=ALICE, variant="profile", value="2", generation=generation)
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "2")

    async def test_time_to_live(self) -> None:
        """A text is gone after the time to live."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.set(uid=ALICE, variant="profile", value="1")
        await self.pass_time(self.ttl * 1.1)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))

    async def test_each_variant_has_its_own_time(self) -> None:
        """Setting one variant does not lengthen the life of another."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.set(uid=ALICE, variant="profile", value="1")
        await self.pass_time(self.ttl * 0.6)
        await cache.set(uid=ALICE, variant="basic", value="2")
        await self.pass_time(self.ttl * 0.6)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))

    async def test_check(self) -> None:
        """A cache that works says so by raising nothing."""
        cache = await self.make_cache(ttl=self.ttl)
        await cache.check()

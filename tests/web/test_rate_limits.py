"""Rate limits, and the address of a client."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.drivers.memory.windows import MemoryWindows
from fxprofile.model.errors import CacheError, TooManyRequests
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.rate_limits import RateLimits, client_address

ALICE, BOB = "a11ce000" * 4, "b0b00000" * 4
HERE, THERE = "192.0.2.1", "198.51.100.7"


class RateLimitsTests(TestCase):
    """How many uploads pass."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.metrics = Metrics()

    def limits(self, per_user: int = 2, per_address: int = 3) -> RateLimits:
        return RateLimits(
            MemoryWindows(self.clock),
            self.clock,
            self.metrics,
            per_user=per_user,
            per_address=per_address,
        )

    async def refused(self, limits: RateLimits, uid: str, address: str | None) -> int:
        """For how many seconds an upload is refused."""
        with self.assertRaises(TooManyRequests) as raised:
            await limits.hit(uid=uid, address=address)
        return int(raised.exception.headers["Retry-After"])

    async def test_per_user(self) -> None:
        """A user has so many uploads in any hour, from wherever they come."""
        limits = self.limits()
        await limits.hit(uid=ALICE, address=HERE)
        self.clock.advance(600)
        await limits.hit(uid=ALICE, address=THERE)
        self.assertEqual(await self.refused(limits, ALICE, None), 3000)
        await limits.hit(uid=BOB, address=HERE)
        self.clock.advance(3000)
        await limits.hit(uid=ALICE, address=HERE)
        self.assertEqual(await self.refused(limits, ALICE, HERE), 600)

    async def test_per_address(self) -> None:
        """All users of an address together have so many uploads in any hour."""
        limits = self.limits()
        for uid in "abc":
            await limits.hit(uid=uid, address=HERE)
        self.assertEqual(await self.refused(limits, "d", HERE), 3600)
        await limits.hit(uid="d", address=THERE)

    async def test_refused_is_not_counted(self) -> None:
        """Whoever is refused by one limit has used up nothing of the other."""
        limits = self.limits(per_user=1, per_address=2)
        await limits.hit(uid="a", address=HERE)
        for _ in range(5):
            await self.refused(limits, "a", HERE)
        await limits.hit(uid="b", address=HERE)
        await self.refused(limits, "c", HERE)
        await limits.hit(uid="c", address=THERE)

    async def test_retry_after_is_kept(self) -> None:
        """Whoever waits as long as told is let in, and is never told to wait for no time."""
        limits = self.limits(per_user=1)
        await limits.hit(uid=ALICE, address=None)
        for waited in (0.0, 0.4, 1800.3, 1799.2):
            self.clock.advance(waited)
            seconds = await self.refused(limits, ALICE, None)
            self.assertGreaterEqual(seconds, 1)
        self.clock.advance(seconds)
        await limits.hit(uid=ALICE, address=None)

    async def test_window_that_just_ended(self) -> None:
        """If the window ends while we look, the wait is the shortest there is."""

        class Ending(MemoryWindows):
            async def get_moving_window(
                self, key: str, limit: int, expiry: int
            ) -> tuple[float, int]:
                return self._clock.seconds() - expiry, limit

        limits = RateLimits(Ending(self.clock), self.clock, self.metrics, per_user=1, per_address=0)
        self.assertEqual(await self.refused(limits, ALICE, None), 1)

    async def test_no_limit(self) -> None:
        """Zero is no limit."""
        limits = self.limits(per_user=0, per_address=0)
        for _ in range(100):
            await limits.hit(uid=ALICE, address=HERE)

    async def test_no_address(self) -> None:
        """A connection without an address has its user's limit only."""
        limits = self.limits(per_user=1, per_address=1)
        await limits.hit(uid="a", address=None)
        await limits.hit(uid="b", address=None)
        await self.refused(limits, "a", None)

    async def test_network_of_a_host(self) -> None:
        """The 2**64 IPv6 addresses that one host has count as one."""
        limits = self.limits()
        for i in range(3):
            await limits.hit(uid=str(i), address=f"2001:db8:0:1::{i}")
        await self.refused(limits, "d", "2001:db8:0:1:ffff::9")
        await limits.hit(uid="d", address="2001:db8:0:2::9")

    async def test_storage_fails(self) -> None:
        """When hits cannot be counted, uploads go on, and it is logged and counted."""

        class Failing(MemoryWindows):
            async def get_moving_window(
                self, key: str, limit: int, expiry: int
            ) -> tuple[float, int]:
                raise CacheError("Redis does not answer")

        limits = RateLimits(
            Failing(self.clock), self.clock, self.metrics, per_user=1, per_address=1
        )
        events: list[object] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for _ in range(3):
            await limits.hit(uid=ALICE, address=HERE)
        self.assertEqual(
            self.metrics.registry.get_sample_value(
                "fxprofile_upstream_errors_total", {"upstream": "limits"}
            ),
            3,
        )
        self.assertIn("Redis does not answer", str(events))


class ClientAddressTests(SynchronousTestCase):
    """Whom a request comes from."""

    peer = "203.0.113.9"

    def check(self, expected: str | None, *headers: str, depth: int = 1) -> None:
        self.assertEqual(
            client_address(headers, self.peer, depth), expected, f"{headers} at {depth}"
        )

    def test_no_proxy(self) -> None:
        """At depth 0 the header is not read."""
        self.check(self.peer, "192.0.2.1", depth=0)

    def test_no_header(self) -> None:
        """Without the header it is the other end of the connection."""
        self.check(self.peer)
        self.check(self.peer, "")

    def test_depth(self) -> None:
        """So many entries are counted back from the right, whatever a client put before."""
        header = "10.9.9.9, evil, 192.0.2.1, 192.0.2.2"
        self.check("192.0.2.2", header, depth=1)
        self.check("192.0.2.1", header, depth=2)

    def test_several_headers(self) -> None:
        """Several headers are one list."""
        self.check("192.0.2.2", "10.9.9.9", "192.0.2.1,192.0.2.2", depth=1)
        self.check("192.0.2.1", "10.9.9.9", "192.0.2.1", "192.0.2.2", depth=2)

    def test_fewer_entries_than_proxies(self) -> None:
        """A request that did not come through all proxies has the leftmost entry there is."""
        self.check("192.0.2.2", "192.0.2.2", depth=3)

    def test_garbage_falls_to_the_right(self) -> None:
        """An entry that is no address gives way to the nearer one, never to a further one."""
        for garbage in (
            "unknown",
            "_hidden",
            "",
            "  ",
            "999.1.1.1",
            "010.0.0.1",
            "1.2.3",
            "1.2.3.4.5",
            "::g",
            "[::1",
            "[::1]443",
            "1.2.3.4:http",
            "1.2.3.4:\u0663",
            "1.2.3.4:",
            "fe80::1%eth0",
            "1.2.3.4%1",
            "::" + "1" * 1000,
            "1.2.3.4\x00",
            "example.com",
            "١.2.3.4",
        ):
            self.check("192.0.2.2", f"10.9.9.9, {garbage}, 192.0.2.2", depth=2)
            self.check(self.peer, f"10.9.9.9, {garbage}", depth=1)

    def test_ports(self) -> None:
        """A port is cut off."""
        self.check("192.0.2.1", "192.0.2.1:443")
        self.check("2001:db8::1", "[2001:db8::1]:443")
        self.check("2001:db8::1", '"[2001:db8::1]:443"')
        self.check("2001:db8::1", "[2001:db8::1]")
        self.check("2001:db8::1", "2001:db8::1")

    def test_one_form(self) -> None:
        """One address has one form."""
        self.check("2001:db8::1", "2001:DB8:0:0:0:0:0:1")
        self.check("192.0.2.1", "::ffff:192.0.2.1")
        self.check("192.0.2.1", "\t192.0.2.1 ")

    def test_peer_without_address(self) -> None:
        """A peer on a UNIX socket has none."""
        self.assertIsNone(client_address([], None, 1))
        self.assertIsNone(client_address(["nonsense"], "/run/web.sock", 1))
        self.assertEqual(client_address(["192.0.2.1"], None, 1), "192.0.2.1")

    def test_link_local_peer(self) -> None:
        """The name of the interface is not part of an address."""
        self.assertEqual(client_address([], "fe80::1%eth0", 1), "fe80::1")

    def test_mapped_peer(self) -> None:
        """A listener for both families sees IPv4 clients as IPv4."""
        self.assertEqual(client_address([], "::ffff:192.0.2.1", 0), "192.0.2.1")

    @given(st.lists(st.text(max_size=50), max_size=4), st.integers(0, 12))
    def test_any_text(self, headers: list[str], depth: int) -> None:
        """Whatever the header holds, there is an address, and it is one."""
        address = client_address(headers, self.peer, depth)
        self.assertIsNotNone(address)
        self.assertEqual(str(ip_address(address or "")), address)

    @given(
        st.lists(st.text(max_size=20), max_size=3),
        st.integers(1, 4),
        st.lists(st.ip_addresses(v=4).map(str), min_size=4, max_size=4),
    )
    def test_nothing_further_left_counts(
        self, forged: list[str], depth: int, hops: list[str]
    ) -> None:
        """What a client puts before the entries of the trusted proxies changes nothing."""
        trusted = hops[:depth]
        self.assertEqual(
            client_address([*forged, *trusted], self.peer, depth),
            client_address(trusted, self.peer, depth),
        )

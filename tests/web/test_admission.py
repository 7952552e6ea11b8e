"""Rate limits of uploads, and the address of a client."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.drivers.memory.expiring import MemoryRateWindows
from fxprofile.model.errors import CacheError, TooManyRequests
from fxprofile.model.ports import IRateWindows
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.limits import USERS_PER_ADDRESS, RateLimiter, client_address
from fxprofile.web.upload import UploadAdmission

ALICE, BOB = "a11ce000" * 4, "b0b00000" * 4
HERE, THERE = "192.0.2.1", "198.51.100.7"


class FailingWindows:
    """Rate windows that cannot count."""

    async def hit(self, *, limits: Mapping[str, int], seconds: int = 0) -> float:
        raise CacheError("Redis does not answer")


class RateLimitTests(TestCase):
    """Uploads per user and per address are limited."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.metrics = Metrics()

    def admission(self, per_hour: int = 2, windows: IRateWindows | None = None) -> UploadAdmission:
        limiter = RateLimiter(
            windows=windows or MemoryRateWindows(self.clock),
            metrics=self.metrics,
            name="upload",
            limit=per_hour,
            seconds=3600,
        )
        return UploadAdmission(limiter=limiter, customs=None)

    async def refused(self, admission: UploadAdmission, uid: str, address: str | None) -> int:
        """Return the Retry-After of an upload, which must be refused."""
        with self.assertRaises(TooManyRequests) as raised:
            await admission.admit(uid=uid, address=address)
        return int(raised.exception.headers["Retry-After"])

    async def fill(self, admission: UploadAdmission, address: str) -> None:
        """Count uploads of many users until the limit of an address is reached."""
        for i in range(USERS_PER_ADDRESS):
            await admission.admit(uid=str(i), address=address)

    async def test_limit_per_user(self) -> None:
        """The hourly limit of a user covers uploads from all addresses together."""
        admission = self.admission()
        await admission.admit(uid=ALICE, address=HERE)
        self.clock.advance(600)
        await admission.admit(uid=ALICE, address=THERE)
        self.assertEqual(await self.refused(admission, ALICE, None), 3000)
        await admission.admit(uid=BOB, address=HERE)
        self.clock.advance(3000)
        await admission.admit(uid=ALICE, address=HERE)
        self.assertEqual(await self.refused(admission, ALICE, HERE), 600)

    async def test_limit_per_address(self) -> None:
        """The limit per client address is ten times the limit per user."""
        admission = self.admission(per_hour=1)
        await self.fill(admission, HERE)
        self.assertEqual(await self.refused(admission, ALICE, HERE), 3600)
        await admission.admit(uid=ALICE, address=THERE)

    async def test_refused_upload_is_not_counted(self) -> None:
        """An upload that one limit refuses does not count against the other limit."""
        admission = self.admission(per_hour=1)
        await admission.admit(uid=ALICE, address=HERE)
        for _ in range(2 * USERS_PER_ADDRESS):
            await self.refused(admission, ALICE, HERE)
        await admission.admit(uid=BOB, address=HERE)
        await self.fill(admission, THERE)
        await self.refused(admission, "c", THERE)
        await admission.admit(uid="c", address=HERE)

    async def test_retry_after_is_sufficient(self) -> None:
        """A client that waits for Retry-After is admitted; Retry-After is never 0."""
        admission = self.admission(per_hour=1)
        await admission.admit(uid=ALICE, address=None)
        for waited in (0.0, 0.4, 1800.3, 1799.2):
            self.clock.advance(waited)
            seconds = await self.refused(admission, ALICE, None)
            self.assertGreaterEqual(seconds, 1)
        self.clock.advance(seconds)
        await admission.admit(uid=ALICE, address=None)

    async def test_zero_is_unlimited(self) -> None:
        """With a limit of 0, every upload is admitted."""
        admission = self.admission(per_hour=0)
        for _ in range(100):
            await admission.admit(uid=ALICE, address=HERE)

    async def test_connection_without_address(self) -> None:
        """Without an address only the limit per user applies."""
        admission = self.admission(per_hour=1)
        for i in range(2 * USERS_PER_ADDRESS):
            await admission.admit(uid=str(i), address=None)
        await self.refused(admission, "0", None)

    async def test_ipv6_network_counts_as_one_address(self) -> None:
        """The IPv6 addresses of a /64, which one host may have, share a limit."""
        admission = self.admission(per_hour=1)
        for i in range(USERS_PER_ADDRESS):
            await admission.admit(uid=str(i), address=f"2001:db8:0:1::{i}")
        await self.refused(admission, ALICE, "2001:db8:0:1:ffff::9")
        await admission.admit(uid=ALICE, address="2001:db8:0:2::9")

    async def test_uploads_are_admitted_if_they_cannot_be_counted(self) -> None:
        """If counting fails, uploads are admitted, and the failure is logged and counted."""
        admission = self.admission(per_hour=1, windows=FailingWindows())
        events: list[object] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for _ in range(3):
            await admission.admit(uid=ALICE, address=HERE)
        self.assertEqual(
            self.metrics.registry.get_sample_value(
                "fxprofile_upstream_errors_total", {"upstream": "limits"}
            ),
            3,
        )
        self.assertIn("Redis does not answer", str(events))


class ClientAddressTests(SynchronousTestCase):
    """The client address comes from X-Forwarded-For and the connection."""

    peer = "203.0.113.9"

    def check(self, expected: str | None, *headers: str, depth: int = 1) -> None:
        self.assertEqual(
            client_address(",".join(headers), self.peer, depth), expected, f"{headers} at {depth}"
        )

    def test_header_is_ignored_without_proxies(self) -> None:
        """At depth 0 the header is ignored."""
        self.check(self.peer, "192.0.2.1", depth=0)

    def test_peer_is_the_client_without_a_header(self) -> None:
        """Without the header the address is that of the connection."""
        self.check(self.peer)
        self.check(self.peer, "")

    def test_entries_are_counted_from_the_right(self) -> None:
        """The address is the entry that the outermost trusted proxy appended."""
        header = "10.9.9.9, evil, 192.0.2.1, 192.0.2.2"
        self.check("192.0.2.2", header, depth=1)
        self.check("192.0.2.1", header, depth=2)

    def test_several_headers_are_one_list(self) -> None:
        """Several X-Forwarded-For headers are read as one list."""
        self.check("192.0.2.2", "10.9.9.9", "192.0.2.1,192.0.2.2", depth=1)
        self.check("192.0.2.1", "10.9.9.9", "192.0.2.1", "192.0.2.2", depth=2)

    def test_fewer_entries_than_proxies(self) -> None:
        """If there are fewer entries than trusted proxies, the leftmost entry counts."""
        self.check("192.0.2.2", "192.0.2.2", depth=3)

    def test_invalid_entry_is_skipped_to_the_right(self) -> None:
        """An entry that is not an address yields to the next entry on its right."""
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

    def test_ports_are_removed(self) -> None:
        """A port after an address is removed."""
        self.check("192.0.2.1", "192.0.2.1:443")
        self.check("2001:db8::1", "[2001:db8::1]:443")
        self.check("2001:db8::1", '"[2001:db8::1]:443"')
        self.check("2001:db8::1", "[2001:db8::1]")
        self.check("2001:db8::1", "2001:db8::1")

    def test_addresses_are_normalized(self) -> None:
        """An address is returned in its shortest form."""
        self.check("2001:db8::1", "2001:DB8:0:0:0:0:0:1")
        self.check("192.0.2.1", "::ffff:192.0.2.1")
        self.check("192.0.2.1", "\t192.0.2.1 ")

    def test_peer_without_an_address(self) -> None:
        """A connection on a UNIX socket has no address."""
        self.assertIsNone(client_address("", None, 1))
        self.assertIsNone(client_address("nonsense", "/run/web.sock", 1))
        self.assertEqual(client_address("192.0.2.1", None, 1), "192.0.2.1")

    def test_link_local_peer_loses_its_interface(self) -> None:
        """The interface name is removed from a link-local address."""
        self.assertEqual(client_address("", "fe80::1%eth0", 1), "fe80::1")

    def test_ipv4_mapped_peer(self) -> None:
        """An IPv4-mapped IPv6 address is returned as an IPv4 address."""
        self.assertEqual(client_address("", "::ffff:192.0.2.1", 0), "192.0.2.1")

    @given(st.lists(st.text(max_size=50), max_size=4), st.integers(0, 12))
    def test_any_header_gives_an_address(self, headers: list[str], depth: int) -> None:
        """For every header text, the result is a valid address."""
        address = client_address(",".join(headers), self.peer, depth)
        self.assertIsNotNone(address)
        self.assertEqual(str(ip_address(address or "")), address)

    @given(
        st.lists(st.text(max_size=20), max_size=3),
        st.integers(1, 4),
        st.lists(st.ip_addresses(v=4).map(str), min_size=4, max_size=4),
    )
    def test_forged_entries_are_ignored(
        self, forged: list[str], depth: int, hops: list[str]
    ) -> None:
        """Entries before those of the trusted proxies do not change the result."""
        trusted = hops[:depth]
        self.assertEqual(
            client_address(",".join([*forged, *trusted]), self.peer, depth),
            client_address(",".join(trusted), self.peer, depth),
        )

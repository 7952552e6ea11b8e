"""Tests of :mod:`fxprofile.serving.connections`."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.serving.channel import IN_FLIGHT, MAX_IN_FLIGHT, StreamingSite
from fxprofile.serving.connections import (
    LOG_EVERY,
    RESERVE,
    ConnectionLimits,
    descriptors_left,
)
from fxprofile.telemetry.metrics import Metrics
from tests.serving.resources import Handled, read_all
from tests.serving.wire import Connection

HERE, THERE = "192.0.2.1", "198.51.100.7"


class ConnectionLimitsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.left = RESERVE
        self.paused = 0
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def limits(self, **limits: int) -> ConnectionLimits:
        made = ConnectionLimits(
            clock=self.clock,
            metrics=self.metrics,
            listener="api",
            left=lambda: self.left,
            **limits,
        )
        made.pause = self.pause
        return made

    def pause(self) -> None:
        self.paused += 1

    def test_total(self) -> None:
        """No more connections are accepted than the maximum, until one ends."""
        limits = self.limits(maximum=2)
        self.assertEqual([limits.admit(h) for h in (HERE, THERE, HERE)], [True, True, False])
        limits.released(THERE)
        self.assertEqual([limits.admit(HERE), limits.admit(HERE)], [True, False])

    def test_per_address(self) -> None:
        """The connections of one address are limited, and an IPv6 /64 is one address."""
        limits = self.limits(per_address=2)
        for here, there in ((HERE, THERE), ("2001:db8::1", "2001:db8:0:1::1")):
            self.assertEqual([limits.admit(here) for _ in range(3)], [True, True, False])
            self.assertTrue(limits.admit(there))
            limits.released(here)
            self.assertTrue(limits.admit(here))
        self.assertFalse(limits.admit("2001:db8::2"))

    def test_ipv4_peers_of_an_ipv6_listener(self) -> None:
        """IPv4 peers of an IPv6 listener count by their own address, as on an IPv4 listener."""
        limits = self.limits(per_address=2)
        here, there = f"::ffff:{HERE}", f"::ffff:{THERE}"
        self.assertEqual([limits.admit(here) for _ in range(3)], [True, True, False])
        self.assertFalse(limits.admit(HERE))
        self.assertTrue(limits.admit(there))
        limits.released(here)
        self.assertTrue(limits.admit(here))

    def test_unix_sockets_have_no_address(self) -> None:
        """Connections over UNIX sockets count in all, but not as those of one address."""
        limits = self.limits(maximum=3, per_address=1)
        self.assertEqual([limits.admit(None) for _ in range(4)], [True] * 3 + [False])

    def test_zero_is_unlimited(self) -> None:
        """Limits of 0 accept every connection."""
        limits = self.limits()
        self.assertTrue(all(limits.admit(HERE) for _ in range(1000)))

    def test_low_descriptors_pause_the_listener(self) -> None:
        """If descriptors run low, a connection is refused and accepting pauses."""
        limits = self.limits()
        self.assertTrue(limits.admit(HERE))
        self.left = RESERVE - 1
        self.assertFalse(limits.admit(HERE))
        self.assertEqual(self.paused, 1)

    def test_connections_are_counted(self) -> None:
        """Open connections are a gauge, and refused ones are counted by reason, from 0 on."""
        limits = self.limits(maximum=2, per_address=1)

        def figures() -> list[float | None]:
            value = self.metrics.registry.get_sample_value
            refused = "fxprofile_connections_refused_total"
            return [
                value("fxprofile_connections", {"listener": "api"}),
                *(
                    value(refused, {"listener": "api", "reason": reason})
                    for reason in ("descriptors", "total", "address")
                ),
            ]

        self.assertEqual(figures(), [0, 0, 0, 0])
        for host in (HERE, HERE, THERE, "203.0.113.1"):
            limits.admit(host)
        self.assertEqual(figures(), [2, 0, 1, 1])
        self.left = 0
        limits.admit(HERE)
        limits.released(HERE)
        self.assertEqual(figures(), [1, 1, 1, 1])

    def test_descriptors_are_counted(self) -> None:
        """An open file leaves one descriptor less."""
        before = descriptors_left()
        self.assertGreater(before, 0)
        with open(__file__, "rb"):
            self.assertLess(descriptors_left(), before)

    def test_one_log_line_a_minute(self) -> None:
        """Refused connections are logged once a minute, with their number."""
        limits = self.limits(maximum=1)
        limits.admit(HERE)
        for _ in range(2):
            for _ in range(100):
                limits.admit(HERE)
            self.clock.advance(LOG_EVERY)
        limits.admit(HERE)
        self.assertEqual(
            [event["count"] for event in self.events if "count" in event], [1, 100, 100]
        )


class SiteTests(SynchronousTestCase):
    """A site with limits."""

    def test_refused_connection_is_closed(self) -> None:
        """A connection above the limit gets no protocol, and one that ends makes room."""
        limits = ConnectionLimits(clock=Clock(), metrics=Metrics(), listener="api", per_address=2)
        site = StreamingSite(Handled(read_all), reactor=Clock(), limits=limits)
        peer = IPv4Address("TCP", HERE, 1)
        first, second = Connection(site), Connection(site)
        self.assertIsNone(site.buildProtocol(peer))
        self.assertIsNotNone(site.buildProtocol(UNIXAddress("/run/web.sock")))
        first.lose()
        self.assertIsNotNone(site.buildProtocol(peer))
        second.lose()

    def test_piece_size(self) -> None:
        """The pieces of responses are smaller if there are more connections."""
        site = StreamingSite(Handled(read_all), reactor=Clock())
        connection = Connection(site)
        channel: Any = connection.protocol
        self.assertEqual(channel.piece_size(), MAX_IN_FLIGHT // 2)
        for count in (1_000, 4_000, 1_000_000):
            site.channels = range(count)  # type: ignore[assignment]
            size = channel.piece_size()
            self.assertLessEqual(size * count, max(IN_FLIGHT, 4096 * count))
            self.assertEqual(connection.wire.bufferSize, size)  # type: ignore[attr-defined]
        site.channels = {channel}
        connection.lose()

"""The event loop of a helper."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.helper.loop import Loop


class LoopTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.loop = Loop()
        self.calls: list[str] = []

    def pipe(self) -> tuple[int, int]:
        """Return a pipe that has something to read."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        os.write(ends[1], b"x")
        return ends

    def test_descriptors_that_can_be_read_are_called(self) -> None:
        """A watched descriptor is called each time that it can be read, until it is forgotten."""
        reading, _ = self.pipe()
        self.loop.watch(reading, lambda: self.calls.append("read"))
        self.loop.run_once()
        self.loop.run_once()
        self.loop.forget(reading)
        self.loop.call_later("end", 0, lambda: self.calls.append("end"))
        self.loop.run_once()
        self.assertEqual(self.calls, ["read", "read", "end"])

    def test_descriptors_can_be_watched_for_writing(self) -> None:
        """A descriptor that is watched for writing is called when it can be written to."""
        _, writing = self.pipe()
        self.loop.watch(writing, lambda: self.calls.append("write"), write=True)
        self.loop.run_once()
        self.assertEqual(self.calls, ["write"])

    def test_a_call_may_forget_another_descriptor(self) -> None:
        """A descriptor that an earlier call has forgotten is not called any more."""
        (first, _), (second, _) = self.pipe(), self.pipe()
        for own, other in ((first, second), (second, first)):
            self.loop.watch(own, lambda other=other: self.calls.append(self.loop.forget(other)))  # type: ignore[misc, func-returns-value]
        self.loop.run_once()
        self.assertEqual(len(self.calls), 1)

    def test_timers(self) -> None:
        """Timers are called once, unless they are cancelled or replaced before."""
        for name in ("once", "cancelled", "replaced"):
            self.loop.call_later(name, 0, lambda name=name: self.calls.append(name))  # type: ignore[misc]
        self.loop.cancel("cancelled")
        self.loop.call_later("replaced", 0.001, lambda: self.calls.append("later"))
        while len(self.calls) < 2:
            self.loop.run_once()
        self.assertEqual(sorted(self.calls), ["later", "once"])

"""Boxes between a helper and Twisted's own AMP."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.amp import AMP
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.crunch.commands import CancelCommand, CrunchCommand, ForkFailed, PingCommand
from fxprofile.crunch.helper.boxes import Box, BoxConnection


class AmpTests(TestCase):
    """A connection whose other end is Twisted's AMP."""

    def setUp(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.boxes = BoxConnection(ours)
        self.amp = AMP()
        clock: Any = reactor
        with theirs:
            theirs.setblocking(False)
            factory = Factory.forProtocol(lambda: self.amp)
            clock.adoptStreamConnection(theirs.fileno(), socket.AF_UNIX, factory)
        transport: Any = self.amp.transport
        self.addCleanup(transport.abortConnection)

    async def received(self, number: int) -> list[Box]:
        """Return so many boxes, which Twisted sends."""
        boxes: list[Box] = []
        while len(boxes) < number:
            boxes += self.boxes.receive()
            await deferLater(reactor, 0)  # type: ignore[arg-type]
        return boxes

    async def test_commands_and_their_answers(self) -> None:
        """A command is received with its arguments, and Twisted gets its answer."""
        asked = self.amp.callRemote(CancelCommand, job=7)
        [box] = await self.received(1)
        self.assertEqual((box["_command"], box["job"]), (b"CancelCommand", b"7"))
        self.boxes.send({"_answer": box["_ask"]})
        self.assertEqual(await asked, {})

    async def test_descriptors(self) -> None:
        """Descriptors of several commands are received in their order."""
        files = [os.memfd_create(str(number)) for number in range(4)]
        for number, file in enumerate(files):
            os.write(file, b"%d" % number)
        asked = [
            self.amp.callRemote(CrunchCommand, job=job, original=a, output=b, heic=False)
            for job, (a, b) in enumerate(zip(files[::2], files[1::2], strict=True))
        ]
        for box in await self.received(2):
            job = int(box["job"])
            for place, name in enumerate(("original", "output")):
                received = self.boxes.descriptors.pop(int(box[name]))
                self.assertEqual(os.pread(received, 9, 0), b"%d" % (2 * job + place))
                os.close(received)
            self.boxes.send(
                {"_error": box["_ask"], "_error_code": b"FORK_FAILED", "_error_description": b"no"}
            )
        self.assertEqual(self.boxes.descriptors, {})
        for failed in asked:
            await self.assertFailure(failed, ForkFailed)
        for file in files:
            os.close(file)

    async def test_more_than_the_sockets_hold(self) -> None:
        """What does not fit into the socket is sent when there is room for it."""
        asked: list[Deferred[Any]] = [self.amp.callRemote(PingCommand) for _ in range(2000)]
        padding = {"padding": b"x" * 500}
        for box in await self.received(2000):
            self.boxes.send({"_answer": box["_ask"], **padding})
        self.assertTrue(self.boxes.has_unsent)
        while self.boxes.has_unsent:
            self.boxes.flush()
            await deferLater(reactor, 0)  # type: ignore[arg-type]
        await gatherResults(asked)


class StreamTests(SynchronousTestCase):
    """A connection whose other end is a plain socket."""

    def setUp(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        self.boxes = BoxConnection(ours)

    def receive(self) -> list[Box]:
        return list(self.boxes.receive())

    def test_a_box_in_pieces(self) -> None:
        """A box that arrives byte by byte is received once, when it is whole."""
        data = b"\0\1a\0\2bc\0\1d\0\0\0\0"
        for byte in data[:-1]:
            self.theirs.send(bytes([byte]))
            self.assertEqual(self.receive(), [])
        self.theirs.send(data[-1:] + data)
        self.assertEqual(self.receive(), [{"a": b"bc", "d": b""}] * 2)

    def test_nothing_to_receive(self) -> None:
        """Receiving without data returns no box."""
        self.assertEqual(self.receive(), [])

    def test_a_closed_connection(self) -> None:
        """Receiving from a closed connection is EOFError, also after a failed send."""
        receive: Callable[[], list[Box]] = self.receive
        self.theirs.close()
        self.boxes.send({"a": b"b"})
        self.assertFalse(self.boxes.has_unsent)
        self.assertRaises(EOFError, receive)

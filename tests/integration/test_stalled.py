"""
Many clients that stall in the middle of an upload, against a real daemon.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from fxprofile.uploads.overload import FRESH
from tests.integration import photos
from tests.integration.client import Client
from tests.integration.scene import PipelineCase
from tests.support.daemon import Daemon

CLIENTS = 400

#: Bytes by which the daemon may grow: less than a fortieth of what the clients announce.
GROWTH = 96 << 20

HEAD = (
    b"POST /v1/avatar/upload HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\n"
    b"Authorization: Bearer alice\r\n"
    b"Content-Type: image/jpeg\r\n"
    b"Content-Length: 10000000\r\n\r\n"
)


class Staller(Protocol):
    """
    Sends the beginning of an upload.

    :ivar answer: what came back.
    :ivar gone: whether the connection has ended.
    """

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self.answer = b""
        self.gone = False

    def connectionMade(self) -> None:
        self.transport.write(HEAD + self._beginning)

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True


def memory(daemon: Daemon) -> int:
    """Bytes that a daemon has in memory."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


class StalledTests(PipelineCase):
    """Clients that exceed the timeout of a body."""

    async def test_stalled_clients_leave_nothing(self) -> None:
        """Hundreds of stalled clients use little memory, do not block others and leave nothing."""
        daemon = await self.scene.daemon(
            uploads__per_hour=0,
            limits__writes_per_minute=0,
            uploads__max_pending_per_user=1000,
            uploads__max_age=86400,
            uploads__wait=30,
            web__max_connections_per_address=0,
        )
        client = Client(daemon)
        for _ in range(2):
            # The second one finds out how fast the first one was: a burst is accepted after that.
            await client.upload(photos.jpeg())
            await deferLater(reactor, FRESH)
        await client.ask("DELETE", "/v1/avatar")
        await self.scene.until(lambda: not self.scene.files(), "nothing is there")
        before = memory(daemon)

        beginning = photos.jpeg(1600, 1200)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", daemon.ports.web)
        lengths = (1, 3000, 70_000, len(beginning))
        stalled: list[Staller] = await gatherResults(
            [
                connectProtocol(endpoint, Staller(beginning[: lengths[n % len(lengths)]]))
                for n in range(CLIENTS)
            ]
        )
        # Of what is shorter than a signature nothing is written.
        written = CLIENTS - CLIENTS // len(lengths)

        def most_are_written() -> bool:
            return len(self.scene.files()) == written or any(s.answer for s in stalled)

        await self.scene.until(most_are_written, "the uploads have begun")
        self.assertLess(memory(daemon) - before, GROWTH)
        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))

        for staller in stalled[: CLIENTS // 2]:
            staller.transport.abortConnection()
        await self.scene.until(lambda: all(s.gone for s in stalled), "they have all gone")
        for staller in stalled[CLIENTS // 2 :]:
            self.assertTrue(staller.answer.startswith(b"HTTP/1.1 408 "), staller.answer[:80])
        self.assertLess(memory(daemon) - before, GROWTH)

        kept = [f"fxprofile-public/a/{answer['id']}{s}" for s in ("", "_large", "_small")]
        await self.scene.until(lambda: self.scene.files() == kept, "nothing of theirs is left")
        _, avatar = await client.ask("GET", "/v1/avatar")
        self.assertEqual((avatar["id"], "pending" in avatar), (answer["id"], False))
        self.assertNotIn("Traceback", daemon.output)

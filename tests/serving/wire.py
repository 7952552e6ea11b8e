"""HTTP over an in-memory connection to a site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

#: What a TCP transport of Twisted buffers before it pauses its producer.
BUFFER = 65536


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        assert values is None or len(values) == 1, values
        return values and values[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse(data: bytes, methods: list[str] | None = None) -> list[Answer]:
    """Return the complete responses in some bytes; ``methods`` are those of their requests."""
    answers: list[Answer] = []
    while data:
        method = methods[len(answers)] if methods else "GET"
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank, head
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = Headers()
        for line in lines:
            name, _, value = line.partition(": ")
            headers.addRawHeader(name, value)
        answer = Answer(int(status_line.split()[1]), headers, b"")
        if method != "HEAD" and answer.status not in (100, 204, 304):
            length = int(answer.header("Content-Length") or -1)
            assert 0 <= length <= len(data), (head, len(data))
            answer.body, data = data[:length], data[length:]
        answers.append(answer)
    return answers


class Wire(StringTransport):
    """
    A TCP connection.

    :ivar takes: whether the client takes what is written; if not, it fills the buffer.
    :ivar aborted: whether the server has reset it.
    :ivar half_closed: whether the server has said that it will write no more.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 54321), lenient=True)
        self.takes = True
        self.aborted = False
        self.half_closed = False
        self.buffered = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.takes:
            self.buffered += len(data)
            if self.buffered > BUFFER and self.producer is not None:
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def drain(self, still_takes: bool = True) -> None:
        """Let the client read what is buffered, and then everything or nothing more."""
        self.takes, self.buffered = still_takes, 0
        if self.producer is not None:
            self.producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def reading(self) -> bool:
        """Whether the server reads."""
        return self.producerState == "producing"


class Connection:
    """
    A client's end of a connection.

    :ivar wire: what the site writes to.
    """

    def __init__(self, site: Any) -> None:
        self.wire = Wire()
        self.protocol = site.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)
        self.lost = False

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)
        self.settle()

    def settle(self) -> None:
        """Deliver an abort, which the protocol does not expect inside its own call."""
        if self.wire.aborted:
            self.lose()

    def lose(self) -> None:
        """Disconnect."""
        if not self.lost:
            self.lost = True
            if self.wire.producer is not None:
                self.wire.producer.stopProducing()
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def request(
        self,
        path: str,
        method: str = "GET",
        body: bytes = b"",
        version: str = "1.1",
        **headers: str,
    ) -> None:
        """Send a request; in the names of headers, underscores stand for hyphens."""
        lines = [f"{method} {path} HTTP/{version}", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def answers(self, *methods: str) -> list[Answer]:
        """Return the complete responses since the last call."""
        data = self.wire.value()
        self.wire.clear()
        return parse(data, list(methods) or None)

    def answer(self, method: str = "GET") -> Answer:
        """Return the one complete response since the last call."""
        (answer,) = self.answers(method)
        return answer

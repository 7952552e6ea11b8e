"""A client that keeps some connections busy, and takes little time of its own for a response."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """
    What a server did in a round.

    :ivar rate: responses a second.
    :ivar cpu: seconds of a processor that its process took for one response.
    """

    rate: float
    cpu: float


def cpu_seconds(pid: int) -> float:
    """Return the processor time of the threads of a process so far, in seconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def requests(path: str, tokens: int) -> list[bytes]:
    """Return requests that differ in their token."""
    return [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        f"Authorization: Bearer {number:064x}\r\n\r\n".encode()
        for number in range(tokens)
    ]


def load(port: int, pid: int, path: str, tokens: int, connections: int, seconds: float) -> Load:
    """
    Ask for a path on some connections for some seconds; this blocks.

    :param pid: of the server.
    :raises RuntimeError: if a response is not 200.
    """
    todo = cycle(requests(path, tokens))
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(each, selectors.EVENT_READ, bytearray())
        each.sendall(next(todo))
    began, before = time.monotonic(), cpu_seconds(pid)
    count = _run(selector, todo, began + seconds)
    elapsed, spent = time.monotonic() - began, cpu_seconds(pid) - before
    for each in sockets:
        each.close()
    selector.close()
    return Load(count / elapsed, spent / count)


def _run(selector: selectors.BaseSelector, todo: Iterator[bytes], until: float) -> int:
    count = 0
    while time.monotonic() < until:
        for key, _ in selector.select(1):
            connection: socket.socket = key.fileobj  # type: ignore[assignment]
            received: bytearray = key.data
            received += connection.recv(65536)
            if _is_complete(received):
                received.clear()
                count += 1
                connection.sendall(next(todo))
    return count


def _is_complete(received: bytearray) -> bool:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    if not received.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the server responds {bytes(received[:300])!r}")
    head = bytes(received[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return received.endswith(b"\r\n0\r\n\r\n")
    return len(received) - end - 4 >= int(head[at + 17 :].split(b"\r\n", 1)[0])

"""
AMP as the helper speaks it, with :class:`fxprofile.crunch.helper_connection.HelperConnection`.

Twisted's own needs a reactor, and what a helper has in memory is copied with each child.  The
protocol: https://amp-protocol.net, and :mod:`twisted.protocols.amp` for descriptors.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Final

Box = dict[str, bytes]

#: What is received at once: bytes, and descriptors, of which Twisted sends no more with one write.
_MAX_BYTES: Final = 1 << 16
_MAX_DESCRIPTORS: Final = 64


class BoxConnection:
    """
    A connection of boxes, which does not block.

    :ivar descriptors: those that were received and not yet used, by their ordinal numbers.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.descriptors: dict[int, int] = {}
        self._connection = connection
        self._ordinals = itertools.count()
        self._received = b""
        self._unsent = b""

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._connection.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether :meth:`flush` is to be called when the connection can be written to."""
        return bool(self._unsent)

    def receive(self) -> Iterator[Box]:
        """
        Yield the boxes that have arrived.

        :raises EOFError: if the connection is closed.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._connection, _MAX_BYTES, _MAX_DESCRIPTORS
            )
        except BlockingIOError:
            return
        except ConnectionError:
            data, descriptors = b"", []
        if not data:
            raise EOFError
        self.descriptors.update((next(self._ordinals), number) for number in descriptors)
        self._received += data
        while (box := self._next_box()) is not None:
            yield box

    def _next_box(self) -> Box | None:
        """Return the next box, or None if it has not arrived whole."""
        box: Box = {}
        texts: list[bytes] = []
        start = 0
        while True:
            end = start + 2
            length = int.from_bytes(self._received[start:end])
            if len(self._received) < end + length:
                return None
            if length == 0 and len(texts) % 2 == 0:
                # A key without a length is the end of the box.
                self._received = self._received[end:]
                box.update(zip(map(bytes.decode, texts[::2]), texts[1::2], strict=True))
                return box
            texts.append(self._received[end : end + length])
            start = end + length

    def send(self, box: Box) -> None:
        """Send a box, now or, with :meth:`flush`, when the connection can be written to."""
        texts = [text for key, value in box.items() for text in (key.encode(), value)]
        self._unsent += b"".join(len(text).to_bytes(2) + text for text in (*texts, b""))
        self.flush()

    def flush(self) -> None:
        """Send what could not be sent yet."""
        try:
            self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:
            return
        except ConnectionError:
            # The next receive() notices it.
            self._unsent = b""

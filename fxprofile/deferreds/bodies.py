"""Bodies that are read in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import IO, Protocol, runtime_checkable


class Body(Protocol):
    """
    A stream of bytes: an asynchronous iterator of pieces that can be closed early.

    The consumer controls the flow: the producer buffers at most one piece that was not
    requested.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Discard the rest and release all resources.  Repeated calls have no effect."""


@runtime_checkable
class FileBody(Body, Protocol):
    """A body that is a file of this machine."""

    def take(self) -> IO[bytes]:
        """Return the file, which the caller closes, instead of reading the body."""


class BytesBody:
    """
    A body of bytes in memory.

    :param piece: the length of a piece, in bytes.
    """

    def __init__(self, data: bytes, piece: int = 1 << 16) -> None:
        self._pieces = iter([data[i : i + piece] for i in range(0, len(data), piece)])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._pieces = iter(())


async def read_all(body: Body, limit: int) -> bytes:
    """
    Return all bytes of a body, and close it.

    :raises OverflowError: if there are more than ``limit``.
    """
    data = bytearray()
    try:
        async for piece in body:
            data += piece
            if len(data) > limit:
                raise OverflowError(f"more than {limit} bytes")
    finally:
        await body.aclose()
    return bytes(data)

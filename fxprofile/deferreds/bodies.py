"""Bodies that are read piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


class BytesBody:
    """A :class:`fxprofile.model.ports.Body` of bytes that are all there."""

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


async def read_all(body: Any, limit: int) -> bytes:
    """
    All bytes of a body, which is then closed.

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

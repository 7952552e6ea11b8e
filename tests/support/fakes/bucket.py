"""
A memory bucket with planned failures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.tasks import all_done
from fxprofile.model.errors import BodyMismatch, ObjectNotFound
from fxprofile.model.keys import check_key_prefix, key_parts
from fxprofile.model.ports import Body, IBucket, NewObject, ObjectInfo

#: Called with the operation (``put``, ``get``, …), ``before`` or ``after`` its effect, and
#: the keys it is about.  It may raise, or return something to wait for.
Interruption = Callable[[str, str, Sequence[str]], Awaitable[None] | None]


async def put_one(bucket: Any, each: NewObject) -> None:
    """Put one of several objects."""
    body, length = BytesBody(each.data), len(each.data)
    await bucket.put(key=each.key, body=body, length=length, content_type=each.content_type)


@implementer(IBucket)
class MemoryBucket:
    """
    A bucket in memory.

    :param clock: dates the objects; without one they are all of the year 1970.
    :ivar objects: by key, what was put.
    :ivar types: by key, the content type.
    :ivar interrupt: see :data:`Interruption`.
    :ivar calls: each operation with its keys, in order.
    """

    def __init__(
        self, clock: IReactorTime | None = None, interrupt: Interruption | None = None
    ) -> None:
        self._clock = clock
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.interrupt = interrupt
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self._infos: dict[str, ObjectInfo] = {}
        self._puts = 0
        self._planned: list[tuple[str, str, Exception]] = []

    def fail_next(self, operation: str, error: Exception, moment: str = "before") -> None:
        """
        Make one call of this operation raise an error, before or after its effect; several errors
        are raised in the order in which they were planned.
        """
        self._planned.append((operation, moment, error))

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        key_parts(key)
        await self._moment("put", "before", [key])
        data = bytearray()
        async for piece in body:
            data += piece
            if len(data) > length:
                raise BodyMismatch(f"put {key}: more than {length} bytes")
        if len(data) < length:
            raise BodyMismatch(f"put {key}: {len(data)} of {length} bytes")
        self._puts += 1
        self.objects[key] = bytes(data)
        self.types[key] = content_type
        self._infos[key] = ObjectInfo(
            key=key,
            length=length,
            etag=f"{self._puts:x}-{length:x}",
            modified=self._clock.seconds() if self._clock else 0.0,
        )
        await self._moment("put", "after", [key])

    async def put_all(self, *, objects: Sequence[NewObject]) -> None:
        await all_done(put_one(self, each) for each in objects)

    async def get(self, *, key: str, as_file: bool = False) -> tuple[ObjectInfo, Body]:
        key_parts(key)
        await self._moment("get", "before", [key])
        info = self._info(key)
        data = self.objects[key]
        await self._moment("get", "after", [key])
        return info, BytesBody(data)

    async def head(self, *, key: str) -> ObjectInfo:
        key_parts(key)
        await self._moment("head", "before", [key])
        info = self._info(key)
        await self._moment("head", "after", [key])
        return info

    async def delete(self, *, keys: Sequence[str]) -> None:
        for key in keys:
            key_parts(key)
        await self._moment("delete", "before", keys)
        for key in keys:
            self.objects.pop(key, None)
            self.types.pop(key, None)
            self._infos.pop(key, None)
        await self._moment("delete", "after", keys)

    async def list(self, *, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        check_key_prefix(prefix)
        check_key_prefix(after)
        await self._moment("list", "before", [])
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        found = [self._info(key) for key in keys[:limit]]
        await self._moment("list", "after", [])
        return found

    async def check(self) -> None:
        await self._moment("check", "before", [])
        await self._moment("check", "after", [])

    def _info(self, key: str) -> ObjectInfo:
        # A test may put bytes straight into ``objects``.
        if key not in self.objects:
            raise ObjectNotFound(f"there is no {key}")
        data = self.objects[key]
        return self._infos.get(key) or ObjectInfo(key, len(data), f"0-{len(data):x}", 0.0)

    async def _moment(self, operation: str, moment: str, keys: Sequence[str]) -> None:
        if moment == "before":
            self.calls.append((operation, tuple(keys)))
        for planned in self._planned:
            if planned[:2] == (operation, moment):
                self._planned.remove(planned)
                raise planned[2]
        if self.interrupt is not None:
            wait = self.interrupt(operation, moment, keys)
            if wait is not None:
                await wait

"""
JSON requests to servers that are not trusted, bounded in time and size.

Every request ends within its timeout, even if the server is down, accepts the connection and
stays silent, sends byte by byte or without end, sends garbage, redirects, or sends a compression
bomb.
"""

from __future__ import annotations

import json
import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Never, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.connection import Deadlines
from fxprofile.http_client.errors import HttpError

T = TypeVar("T")

#: The most bytes of a response.
MAX_BYTES: Final = 1 << 16


class UpstreamFailure(Exception):
    """A server gave no usable response.  The text repeats nothing that was sent to it."""


@dataclass(frozen=True)
class JsonResponse:
    """
    A response.

    :ivar members: the JSON object in the body, or None if the body is anything else.
    :ivar retry_after: the header of this name, empty if there is none.
    """

    status: int
    members: Mapping[str, object] | None
    retry_after: str = ""


async def within(
    clock: IReactorTime, seconds: float, work: Coroutine[Deferred[object], object, T]
) -> T:
    """
    Run work with a timeout.

    :raises UpstreamFailure: if it takes longer than ``seconds``; the work is cancelled.
    """

    def fail(result: object, timeout: float) -> Never:
        raise UpstreamFailure(f"no response in {seconds:g} s")

    return await Deferred.fromCoroutine(work).addTimeout(seconds, clock, fail)


@attrs.define(eq=False, slots=False)
class Upstream:
    """
    A server that responds in JSON.

    :param name: of the server, for errors.
    :param agent: sends the requests.
    :param timeout: seconds for a request, from the call to the last byte of the response.
    :param retry: whether a request is sent again if its connection turns out to be closed.
    """

    _name: str
    _agent: HttpAgent
    _timeout: float = attrs.field(kw_only=True)
    _retry: bool = attrs.field(kw_only=True, default=True)
    _deadlines: Deadlines = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        seconds = self._timeout
        self._deadlines = Deadlines(seconds, head=seconds, progress=seconds, total=seconds)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> JsonResponse:
        """
        Send a request.

        :param body: sent as JSON.
        :raises UpstreamFailure: if there is no complete response in time, or it is too long.
        """
        lines = [(b"Accept", b"application/json")]
        lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        data = b""
        if body is not None:
            lines.append((b"Content-Type", b"application/json"))
            data = json.dumps(body).encode()
        try:
            response = await self._agent.send(
                method.encode(),
                url.encode(),
                lines,
                data,
                deadlines=self._deadlines,
                idempotent=self._retry,
            )
            received = await response.refuse_compression().read(MAX_BYTES)
        except HttpError as error:
            raise UpstreamFailure(f"{self._name}: {error}") from None
        retry_after = (response.header(b"retry-after") or b"").decode("latin-1")
        return JsonResponse(response.status, _members(received), retry_after)


def _members(body: bytes) -> Mapping[str, object] | None:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def as_text(value: object) -> str:
    """
    Return a member of a response that must be a text.

    :raises ValueError: if it is not a string, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise ValueError("not a string")
    value.encode()
    return value


def as_number(value: object) -> float:
    """
    Return a member of a response that must be a number from 0 to 2**53.

    :raises ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not 0 <= value <= 2**53 or math.isnan(value):
        raise ValueError("not a number from 0 to 2**53")
    return value


def as_texts(value: object) -> tuple[str, ...]:
    """
    Return a member of a response that must be a list of texts.

    :raises ValueError: if it is not.
    """
    if not isinstance(value, list):
        raise ValueError("not a list")
    return tuple(as_text(item) for item in value)

"""What a request costs: no header, path, query or body makes one much dearer than another."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from statistics import median
from types import FrameType
from typing import Any

from tests.images.listener import AVATAR, KEY, Listener
from tests.serving.wire import Connection
from tests.support.fakes.bucket import MemoryBucket
from tests.web.service import JPEG, ApiCase

#: How many times the median a request may cost.
LIMIT = 10

#: What values are filled with; each is repeated until the value is long.
UNITS = (
    *("0", "9", ",", ";", '"', "=", " ,", "a,", '"a",', 'W/"', "a=1;", "a;q=0.1,", "*/*,", "%41"),
    *("(", "\\", "wait=0,", "[::1],", "1.1.1.1,", "\t", "a b", "00-", "{", "+", "~"),
)

HEADERS = (
    *("Accept", "Authorization", "Connection", "Content-Encoding", "Content-Type", "Cookie"),
    *("Expect", "Forwarded", "If-Modified-Since", "If-None-Match", "Origin", "Prefer", "Range"),
    *("Traceparent", "User-Agent", "X-Forwarded-For", "X-Other"),
)

LENGTH = 12_000


def fill(unit: str, length: int = LENGTH) -> str:
    return unit * (length // len(unit))


def chunked(body: bytes, size: int) -> bytes:
    """Return a body in chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def head(method: str, path: str, **headers: str) -> bytes:
    given = {"Host": "test", "Authorization": "Bearer alice", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def upload(**headers: str) -> bytes:
    given = {"Content_Type": "image/jpeg", "Content_Length": str(len(JPEG)), **headers}
    return head("POST", "/v1/avatar/upload", **given) + JPEG


def name(body: bytes, **headers: str) -> bytes:
    length = {} if "Transfer_Encoding" in headers else {"Content_Length": str(len(body))}
    return head("POST", "/v1/display_name", **headers, **length) + body


def form(body: str) -> bytes:
    """Return a request whose token is a field of a form; it is parsed before it is verified."""
    lines = (
        *("POST /v1/profile HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"),
        *("Content-Type: application/x-www-form-urlencoded", "", body),
    )
    return "\r\n".join(lines).encode()


def ordinary() -> Iterator[bytes]:
    """Yield requests as clients send them."""
    yield head("GET", "/v1/uid")
    yield head("GET", "/v1/email")
    yield head("GET", "/v1/avatar/x")
    yield head("GET", "/v1/profile", If_None_Match='"x"')
    yield head("GET", "/v1/avatar", Accept="*/*")
    yield upload(Prefer="respond-async", X_Forwarded_For="192.0.2.1")
    yield name(b'{"displayName": "Alice"}')
    yield head("DELETE", "/v1/avatar")
    yield head("OPTIONS", "/v1/profile", Origin="https://example.com")
    yield form("access_token=alice")


def mutants() -> Iterator[bytes]:
    """Yield requests that are as bad as they may be."""
    for unit in UNITS:
        for header in HEADERS:
            value = {header.replace("-", "_"): fill(unit)}
            yield upload(**value)
            if header in ("Authorization", "If-None-Match"):
                yield head("GET", "/v1/profile", **value)
            # As much as is read of some headers.
            yield upload(**{header.replace("-", "_"): fill(unit, 1000)})
        for length in (1900, LENGTH):
            target = fill(unit.replace(" ", "%20").replace("\t", "/"), length)
            yield head("GET", "/" + target)
            yield head("GET", "/v1/avatar/" + target)
            yield head("GET", "/v1/avatar/upload/" + target)
            yield head("GET", "/v1/uid?" + target)
            yield head("GET", "http://" + target)
        yield name(json.dumps({"displayName": fill(unit, 60_000)}).encode())
        yield name(fill(unit, 60_000).encode())
    for unit in ("/", "a/", "&", "a=b&", "%2f", "%C3%A9", "\xb0"):
        yield head("GET", "/v1/avatar/" + fill(unit, 1900))
        yield head("GET", "/v1/uid?" + fill(unit, 1900))
    yield from _many_headers()
    yield from _bodies()


def _many_headers() -> Iterator[bytes]:
    for header in ("X", "Prefer", "X-Forwarded-For", "If-None-Match", "Accept", "Host"):
        for count in (90, 400, 3000):
            lines = f"{header}: a\r\n".encode() * count
            yield upload()[: -len(JPEG) - 2] + lines + b"\r\n" + JPEG
    yield head("GET", "/v1/uid")[:-2] + b" x\r\n" * 4000 + b"\r\n"


def _bodies() -> Iterator[bytes]:
    for members in (
        {f"{i:x}": 1 for i in range(6000)},
        {"displayName": {str(i): [] for i in range(5000)}},
        {"displayName": "a", "b": [[]] * 10_000},
        {"displayName": "\x00" * 9000},
    ):
        yield name(json.dumps(members).encode())
    for text in (b"[" * 60_000, b'{"a":' * 10_000, b'{"displayName":' + b"9" * 60_000 + b"}"):
        yield name(text)
    body = json.dumps({"displayName": "a" * 60_000}).encode()
    for size in (1, 2, 7, 100, 1000):
        yield name(chunked(body, size), Transfer_Encoding="chunked")
    yield name(chunked(b'{"displayName": "a"}', 1), Transfer_Encoding="chunked")
    for unit in ("&", "a&", "a=1&", "%", "%41", "%41&", "a=%41&", "access_token=a&", "+", ";"):
        for length in (8000, 60_000):
            yield form("access_token=" + fill(unit, length))
    trailers = b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n"
    yield name(trailers, Transfer_Encoding="chunked")


def cost(call: Callable[[], object]) -> int:
    """Return how many instructions of bytecode a call executes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


class CostTests(ApiCase):
    """Requests to the API and to the images, counted in instructions of bytecode."""

    def costs(self, site: Any, requests: Iterator[bytes]) -> dict[bytes, int]:
        costs = {}
        for request in requests:
            connection = Connection(site)
            costs[request] = cost(lambda: connection.send(request))  # noqa: B023
            self.assertTrue(connection.wire.value(), request[:100])
            connection.lose()
        return costs

    def check(self, site: Any, requests: Iterator[bytes], ordinary: Iterator[bytes]) -> None:
        for request in ordinary:
            # What is imported and compiled at first does not count.
            self.costs(site, iter([request, request]))
        costs = self.costs(site, requests)
        limit = LIMIT * median(costs.values())
        dear = sorted(((n, request) for request, n in costs.items() if n > limit), reverse=True)
        text = "\n".join(f"{n}: {r[:100]!r} ... {r[-50:]!r}" for n, r in dear[:20])
        # ApiCase has a method of the name that other assertions call.
        self.assertTrue(not dear, f"{len(dear)} of {len(costs)} cost more than {limit}:\n{text}")

    def test_no_request_to_the_api_is_dear(self) -> None:
        """No request to the API costs more than ten times as much as the median one."""
        self.check(self.site, mutants(), ordinary())

    def test_no_request_for_a_picture_is_dear(self) -> None:
        """No request for a picture costs more than ten times as much as the median one."""
        bucket = MemoryBucket()
        bucket.objects[KEY] = b"picture"
        site = Listener(bucket, formats=("png", "webp", "avif")).site

        def requests() -> Iterator[bytes]:
            for unit in UNITS:
                for header in HEADERS:
                    for length in (1000, LENGTH):
                        value = {header.replace("-", "_"): fill(unit, length)}
                        yield head("GET", f"/a/{AVATAR}", **value)
                target = unit.replace(" ", "%20").replace("\t", "/")
                yield head("GET", "/a/" + fill(target, 1900))
                yield head("GET", f"/a/{AVATAR}?" + fill(target, 1900))

        self.check(site, requests(), iter([head("GET", f"/a/{AVATAR}", Accept="image/webp")]))

"""
Traces: one id follows an upload through processes, messages and requests.

The id comes in the header ``traceparent`` of a request or in the member ``traceparent`` of a
message, or is new (W3C Trace Context, https://www.w3.org/TR/trace-context/).  While it is handled,
log lines have the id, and it is sent on with jobs, results and requests to S3 and SQS.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

#: Version, trace id, parent id and flags; a later version than 00 may have further fields.
_HEADER: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Trace:
    """
    The trace of what is being handled.

    :ivar trace_id: 32 hexadecimal digits, the same in every process.
    :ivar span_id: 16 hexadecimal digits, for this request or message alone.
    :ivar sampled: whether the caller may have recorded the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """The header with which a request or message continues this trace."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def continued(traceparent: str | None, span_id: str | None = None) -> Trace:
    """
    Return the trace that a header continues, or a new one if it is missing or invalid.

    :param span_id: of what is handled now; a new one by default.
    """
    # Ids need not be unpredictable.
    span_id = span_id or f"{random.getrandbits(64):016x}"
    match = _HEADER.fullmatch(traceparent or "")
    if match is None or (match[1] == "00" and match[4]):
        return Trace(f"{random.getrandbits(128):032x}", span_id)
    return Trace(match[2], span_id, sampled=bool(int(match[3], 16) & 1))


@contextmanager
def active(trace: Trace) -> Iterator[None]:
    """Handle something under a trace: coroutines that are started meanwhile keep it."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def trace_id() -> str | None:
    """Return the id of the trace, if there is one."""
    trace = _current.get()
    return None if trace is None else trace.trace_id


def traceparent() -> str | None:
    """Return the header that continues the trace, if there is one."""
    trace = _current.get()
    return None if trace is None else trace.traceparent


def headers() -> Mapping[str, str]:
    """Return the headers that continue the trace in another server."""
    value = traceparent()
    return {} if value is None else {"traceparent": value}

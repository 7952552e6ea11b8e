"""
Traces: one id follows an upload through processes, messages and requests.

The id comes in the header ``traceparent`` of a request or in the member ``traceparent`` of a
message, or is new (W3C Trace Context, https://www.w3.org/TR/trace-context/).  While it is handled,
log lines have the id, and it is sent on with jobs, results and requests to S3 and SQS.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

_HEX: Final = frozenset("0123456789abcdef")

#: The length of a header of version 00, which every later version begins with.
_LENGTH: Final = len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


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
    trace = None if traceparent is None else _parsed(traceparent, span_id)
    return trace or Trace(f"{random.getrandbits(128):032x}", span_id)


def _parsed(text: str, span_id: str) -> Trace | None:
    if len(text) < _LENGTH or text[2:3] + text[35:36] + text[52:53] != "---":
        return None
    version, trace_id, parent_id, flags = text[:2], text[3:35], text[36:52], text[53:55]
    # A later version may have further fields, after another hyphen.
    if len(text) > _LENGTH and (version == "00" or text[_LENGTH] != "-"):
        return None
    if version == "ff" or not _HEX.issuperset(version + trace_id + parent_id + flags):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & 1))


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

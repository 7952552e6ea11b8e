"""
What came of an image, from what its child wrote and how it ended.

Whatever a child wrote before it was killed, or died, counts for nothing.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Final

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.result import Outcome

#: Beyond this share of the memory limit, "corrupt" may well mean "no memory": several
#: decoders cannot tell the two apart.
_NEAR_THE_LIMIT: Final = 0.8


@dataclass(frozen=True)
class Ended:
    """The response to :class:`fxprofile.crunch.commands.Crunch`."""

    ended: str
    status: int
    cpu: float
    wall: float
    resident: int
    base: int
    stderr: bytes


def judged(ended: Ended, written: Outcome | str, limits: Limits) -> tuple[Outcome, bool]:
    """
    Tell what came of an image.

    :param ended: what the helper says, which nobody else can have said.
    :param written: what the child wrote, or what is wrong with it.
    :returns: the outcome, and whether the image is at fault if there is a reason.
    """
    if ended.ended == "timeout":
        return _failure("timeout", f"no end after {limits.timeout} seconds")
    if ended.ended:
        return _failure("crashed", ended.ended)
    if ended.status != 0:
        return _died(ended, limits)
    if isinstance(written, str):
        return _failure("crashed", f"the result is none: {written}")
    if written.reason == "memory":
        return replace(written, pictures={}), False
    if written.reason == "corrupt" and _near_the_limit(written, ended, limits):
        return replace(written, reason="memory"), False
    return written, written.reason is not None


def _died(ended: Ended, limits: Limits) -> tuple[Outcome, bool]:
    said = ascii(ended.stderr[-200:].decode("utf-8", "replace"))[1:-1]
    if ended.status > 0:
        return _failure("crashed", f"exit status {ended.status} {said}".strip())
    number = -ended.status
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    out_of_time = number == signal.SIGKILL and ended.cpu >= limits.cpu
    if number in (signal.SIGXCPU, signal.SIGALRM) or out_of_time:
        return _failure("timeout", f"{name} after {ended.cpu:.1f} seconds of processor time")
    if number == signal.SIGKILL or ended.resident > _NEAR_THE_LIMIT * limits.memory:
        # Nobody of ours killed it; the kernel does when there is no memory.
        return _failure("memory", f"{name} with {ended.resident >> 20} MiB in use {said}".strip())
    return _failure("crashed", f"{name} {said}".strip())


def _near_the_limit(written: Outcome, ended: Ended, limits: Limits) -> bool:
    used = max(written.peak - ended.base, ended.resident)
    return used > _NEAR_THE_LIMIT * limits.memory


def _failure(reason: str, detail: str) -> tuple[Outcome, bool]:
    return Outcome(reason=reason, detail=detail), False

"""
What the pool and its helpers say to each other, in AMP.

Files travel as open descriptors, so that nothing has a name that could be guessed, and
the kernel cleans up after whoever is killed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from twisted.protocols.amp import Command, Descriptor, Float, Integer, String, Unicode

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox import Mode

#: The descriptor of a helper's end of the connection.
CONNECTION = 3

#: What a child runs in production: the name of a module, a colon, that of a function.
JOB = "fxprofile.crunch.codec.job:run"


@dataclass(frozen=True)
class HelperConfig:
    """
    What a helper is told on its command line, where everybody can read it.

    :ivar parent: the pool's process.
    :ivar job: what a child runs, and called with the mapped original and the limits.
    """

    parent: int
    limits: Limits
    mode: Mode
    job: str = JOB

    def encode(self) -> str:
        """The configuration as JSON."""
        return json.dumps({**asdict(self), "limits": self.limits.encode()})

    @classmethod
    def decode(cls, text: str) -> HelperConfig:
        """Read what :meth:`encode` wrote."""
        members: dict[str, Any] = json.loads(text)
        members["limits"] = Limits.decode(members["limits"])
        return cls(**members)


class NoChild(Exception):
    """The system did not let a helper fork."""


class Ready(Command):
    """Ask a helper whether it is ready: it answers with what a child of its can rely on."""

    arguments: ClassVar = []
    response: ClassVar = [
        # One name a line.
        (b"layers", Unicode()),
        (b"versions", Unicode()),
    ]


class Crunch(Command):
    """
    Ask a helper for a child; it answers when the child is gone.

    The descriptors must stay open until then: they may still wait to be sent.
    """

    arguments: ClassVar = [
        (b"job", Integer()),
        (b"original", Descriptor()),
        (b"output", Descriptor()),
    ]
    response: ClassVar = [
        # Why the helper ended the child: empty, timeout, cancelled, unlocked or failed.
        (b"ended", Unicode()),
        # The exit status, or the signal as a negative number.
        (b"status", Integer()),
        (b"cpu", Float()),
        (b"wall", Float()),
        # The most memory that it had in use, in bytes.
        (b"resident", Integer()),
        # What the address space was of which it is a copy, in bytes.
        (b"base", Integer()),
        (b"stderr", String()),
    ]

    errors: ClassVar = {NoChild: b"NO_CHILD"}


class Cancel(Command):
    """End a child."""

    arguments: ClassVar = [
        (b"job", Integer()),
    ]
    response: ClassVar = []

"""
The protocol between the pool and its helpers: a configuration and three AMP commands.

Files travel as open descriptors: they have no name that could be guessed, and the kernel
frees them when the last process that has them open ends.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar, TypedDict

from twisted.protocols.amp import Boolean, Command, Descriptor, Float, Integer, String, Unicode

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox import Mode

#: The descriptor of a helper's end of the connection.
CONNECTION = 3

#: The function that children run in production, as ``module:function``.
JOB = "fxprofile.crunch.codec.job:run"


@dataclass(frozen=True)
class HelperConfig:
    """
    The configuration of a helper, which it gets on its command line: not for secrets.

    :ivar parent: the process id of the pool.
    :ivar limits: those of each child.
    :ivar mode: how strict the sandbox is.
    :ivar job: the function that a child runs, as ``module:function``; it is called with the
        mapped original and the limits.
    """

    parent: int
    limits: Limits
    mode: Mode
    job: str = JOB

    def encode(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> HelperConfig:
        """Return the configuration that :meth:`encode` wrote."""
        members = json.loads(text)
        limits = members.pop("limits")
        limits["formats"] = tuple(limits["formats"])
        return cls(limits=Limits(**limits), **members)


class ForkFailed(Exception):
    """A helper could not fork a child."""


class ChildExit(TypedDict):
    """
    How a child ended; the response to :class:`CrunchCommand`.

    ``ended`` says why the helper killed the child: ``timeout``, ``starved`` (a timeout of a
    child that wanted to run and rarely could), ``cancelled``, ``unlocked`` (a layer of its
    sandbox was missing) or ``failed``; it is empty if the helper did not.
    ``status`` is the exit status, or the signal as a negative number.  ``cpu`` and ``wall``
    are in seconds; ``resident``, the peak of the memory in use, and ``base``, the address
    space that the child inherited from the helper, in bytes.
    """

    ended: str
    status: int
    cpu: float
    wall: float
    resident: int
    base: int
    stderr: bytes


class ReadyCommand(Command):
    """
    Ask a helper whether it is ready.

    The response names the sandbox layers that its children have, one per line, and its
    codecs with their versions, one per line.
    """

    response: ClassVar = [(b"layers", Unicode()), (b"versions", Unicode())]


class PingCommand(Command):
    """Ask a helper to respond, to see whether it still does."""


class CrunchCommand(Command):
    """
    Ask a helper to crunch an image in a child; it responds when the child has ended.

    The descriptors must stay open until then: they may still wait in the send buffer.
    ``heic`` says whether the image is HEIC.
    """

    arguments: ClassVar = [
        (b"job", Integer()),
        (b"original", Descriptor()),
        (b"output", Descriptor()),
        (b"heic", Boolean()),
    ]
    response: ClassVar = [
        (b"ended", Unicode()),
        (b"status", Integer()),
        (b"cpu", Float()),
        (b"wall", Float()),
        (b"resident", Integer()),
        (b"base", Integer()),
        (b"stderr", String()),
    ]
    errors: ClassVar = {ForkFailed: b"FORK_FAILED"}


class CancelCommand(Command):
    """Ask a helper to kill the child of a job."""

    arguments: ClassVar = [(b"job", Integer())]

"""
What the pool and a helper exchange: its configuration, and how a child ended.

The helper imports this, so it needs no library.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TypedDict

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


class ChildExit(TypedDict):
    """
    How a child ended; the response to :class:`fxprofile.crunch.commands.CrunchCommand`.

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

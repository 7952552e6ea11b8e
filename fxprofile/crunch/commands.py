"""
The commands of the pool to its helpers, in AMP; :mod:`fxprofile.crunch.helper.main` answers them.

Files travel as open descriptors: they have no name that could be guessed, and the kernel
frees them when the last process that has them open ends.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols.amp import Boolean, Command, Descriptor, Float, Integer, String, Unicode


class ForkFailed(Exception):
    """A helper could not fork a child."""


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

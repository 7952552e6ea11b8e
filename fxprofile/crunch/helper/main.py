"""
The helper: it has all codecs loaded, and forks a locked child for each image.

The pool spawns it with an empty environment and three descriptors, and it ends when the
pool closes the connection.  It decodes only images that it has drawn itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fxprofile.crunch import protocol, sandbox
from fxprofile.crunch.codec import decoders
from fxprofile.crunch.codec import job as default_job
from fxprofile.crunch.helper.boxes import Box, BoxConnection
from fxprofile.crunch.helper.children import Child, Job, bound_descriptors
from fxprofile.crunch.helper.loop import Loop
from fxprofile.crunch.sandbox import libc, process

#: Seconds that killed children get to end.
_LAST_WAIT: Final = 2
#: The arguments of a job that are descriptors.
_FILES: Final = ("original", "output")


class Helper:
    """The helper's end of the connection."""

    def __init__(
        self,
        connection: BoxConnection,
        config: protocol.HelperConfig,
        job: Job,
        own: set[str],
    ) -> None:
        """
        :param own: the layers that children inherit from the helper.
        """
        self._connection = connection
        # Only the child of a HEIC may start a thread.
        self._configs = {
            heic: replace(config, limits=replace(config.limits, heic=heic))
            for heic in (False, True)
        }
        self._job = job
        self._own = own
        self._base = process.address_space()
        self._baseline: set[str] = set()
        self._loop = Loop()
        self._children: dict[int, Child] = {}
        self._commands = {
            b"ReadyCommand": self._ready,
            b"PingCommand": lambda box: self._answer(box, {}),
            b"CrunchCommand": self._crunch,
            b"CancelCommand": self._cancel,
        }

    def run(self) -> None:
        """Answer commands until the connection is closed, and end the children."""
        self._loop.watch(self._connection.fileno(), self._read)
        try:
            while True:
                self._loop.run_once()
        except EOFError:
            # Reaped here: the process that inherits them may not do it.
            for child in self._children.values():
                child.kill("cancelled")
            self._loop.forget(self._connection.fileno())
            self._loop.call_later(self, _LAST_WAIT, self._children.clear)
            while self._children:
                self._loop.run_once()

    def _read(self) -> None:
        self._flush()
        for box in self._connection.receive():
            self._commands[box["_command"]](box)

    def _answer(self, box: Box, answer: Box) -> None:
        self._send({"_answer": box["_ask"], **answer})

    def _send(self, box: Box) -> None:
        self._connection.send(box)
        self._flush()

    def _flush(self) -> None:
        if self._connection.has_unsent:
            self._connection.flush()
            unsent = self._connection.has_unsent
            self._loop.watch(self._connection.fileno(), self._read, write=unsent)

    def _child(
        self, gone: Callable[[protocol.ChildExit], None], *, heic: bool, first: bool = False
    ) -> Child:
        baseline = None if first else self._baseline
        return Child(self._loop, self._configs[heic], self._base, baseline, gone)

    def _ready(self, box: Box) -> None:
        """Find out which layers a child has, with one that has no job."""

        def gone(end: protocol.ChildExit) -> None:
            self._baseline = child.layers
            layers = "\n".join(self._own | child.layers)
            self._answer(box, {"layers": layers.encode(), "versions": decoders.versions().encode()})

        child = self._child(gone, heic=False, first=True)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            child.start(lambda data, limits: None, null, null)
        finally:
            os.close(null)

    def _crunch(self, box: Box) -> None:
        """Crunch one image."""
        job = int(box["job"])

        def gone(end: protocol.ChildExit) -> None:
            del self._children[job]
            self._answer(box, {key: _encoded(value) for key, value in end.items()})

        child = self._children[job] = self._child(gone, heic=box["heic"] == b"True")
        files = [self._connection.descriptors.pop(int(box[name])) for name in _FILES]
        try:
            child.start(self._job, *files)
        except OSError as error:
            del self._children[job]
            failed = {"_error": box["_ask"], "_error_code": b"FORK_FAILED"}
            self._send({**failed, "_error_description": str(error).encode()})
        finally:
            for file in files:
                os.close(file)

    def _cancel(self, box: Box) -> None:
        """Kill the child of a job, unless it has ended."""
        child = self._children.get(int(box["job"]))
        if child is not None:
            child.kill("cancelled")
        self._answer(box, {})


def _encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def main(text: str) -> None:
    """
    Be a helper until the connection is closed.

    :param text: a :class:`fxprofile.crunch.protocol.HelperConfig` in JSON.
    """
    config = protocol.HelperConfig.decode(text)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        # They are sent to the whole process group: the pool decides when this ends.
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    bound_descriptors()
    # A process in a user namespace of its own may be unable to read the files of Python.
    decoders.prepare(config.limits)
    module, _, function = config.job.partition(":")
    job: Job = getattr(importlib.import_module(module), function)
    own = sandbox.prepare(limits=config.limits, mode=config.mode)
    process.die_with(config.parent)
    # After that: the decoder of HEIC starts a thread, and a process with threads gets no
    # namespace of users.
    default_job.warm_up(config.limits)
    faulthandler.enable()
    connection = socket.socket(fileno=protocol.CONNECTION)
    helper = Helper(BoxConnection(connection), config, job, own)
    # What exists now is shared with every child; a collection would copy it.
    gc.collect()
    gc.freeze()
    # Free memory would have to be copied there before it is written.
    with contextlib.suppress(OSError):
        libc.call("malloc_trim", 0)
    helper.run()

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
import sys
from dataclasses import replace
from functools import partial
from typing import Final

# Without TLS: its libraries would double the memory that is copied with each child, and
# add to what a hostile one could call.
sys.modules["OpenSSL"] = None  # type: ignore[assignment]

from twisted.internet import defer  # noqa: E402
from twisted.internet.pollreactor import PollReactor  # noqa: E402
from twisted.internet.protocol import Factory, connectionDone  # noqa: E402
from twisted.protocols.amp import AMP  # noqa: E402
from twisted.python.failure import Failure  # noqa: E402

from fxprofile.crunch import commands, sandbox  # noqa: E402
from fxprofile.crunch.codec import job as default_job  # noqa: E402
from fxprofile.crunch.codec.decoders import versions  # noqa: E402
from fxprofile.crunch.helper.children import Child, Job, bound_descriptors  # noqa: E402
from fxprofile.crunch.sandbox import libc, process  # noqa: E402

#: Seconds that killed children get to end.
_LAST_WAIT: Final = 2


class Helper(AMP):
    """The helper's end of the connection."""

    def __init__(
        self, reactor: PollReactor, config: commands.HelperConfig, job: Job, own: set[str]
    ) -> None:
        """
        :param own: the layers that children inherit from the helper.
        """
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._job = job
        self._own = own
        self._base = process.address_space()
        self._baseline: set[str] | None = None
        self._children: dict[int, Child] = {}

    def _child(self, baseline: set[str] | None, *, heic: bool = False) -> Child:
        # Only the child of a HEIC may start a thread.
        limits = replace(self._config.limits, heic=heic)
        return Child(self._reactor, replace(self._config, limits=limits), self._base, baseline)

    @commands.ReadyCommand.responder
    async def ready(self) -> dict[str, str]:
        """Find out which layers a child has, with one that has no job."""
        child = self._child(None)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            child.start(lambda data, limits: None, null, null)
        finally:
            os.close(null)
        await child.gone
        self._baseline = child.layers
        return {"layers": "\n".join(self._own | child.layers), "versions": versions()}

    @commands.PingCommand.responder
    def ping(self) -> dict[str, str]:
        """Respond."""
        return {}

    @commands.CrunchCommand.responder
    async def crunch(self, job: int, original: int, output: int, heic: bool) -> commands.ChildExit:
        """Crunch one image."""
        child = self._child(self._baseline or set(), heic=heic)
        try:
            child.start(self._job, original, output)
        except OSError as error:
            raise commands.ForkFailed(str(error)) from error
        finally:
            os.close(original)
            os.close(output)
        self._children[job] = child
        try:
            return await child.gone
        finally:
            del self._children[job]

    @commands.CancelCommand.responder
    def cancel(self, job: int) -> dict[str, str]:
        """Kill the child of a job, unless it has ended."""
        if job in self._children:
            self._children[job].kill("cancelled")
        return {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Kill the children, whose results have no reader any more, and end."""
        super().connectionLost(reason)
        children = list(self._children.values())
        for child in children:
            child.kill("cancelled")
        # Reaped here: the process that inherits them may not do it.
        gone = defer.gatherResults([child.gone for child in children])
        gone.addTimeout(_LAST_WAIT, self._reactor)
        gone.addBoth(lambda _: self._reactor.stop())


def main(text: str) -> None:
    """
    Be a helper until the connection is closed.

    :param text: a :class:`fxprofile.crunch.commands.HelperConfig` in JSON.
    """
    config = commands.HelperConfig.decode(text)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        # They are sent to the whole process group: the pool decides when this ends.
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    bound_descriptors()
    own = sandbox.prepare(limits=config.limits, mode=config.mode)
    process.die_with(config.parent)
    default_job.warm_up(config.limits)
    module, _, function = config.job.partition(":")
    job: Job = getattr(importlib.import_module(module), function)
    faulthandler.enable()
    reactor = PollReactor()
    defer.setDebugging(False)
    factory = Factory.forProtocol(partial(Helper, reactor, config, job, own))
    os.set_blocking(commands.CONNECTION, False)
    reactor.adoptStreamConnection(commands.CONNECTION, socket.AF_UNIX, factory)
    os.close(commands.CONNECTION)
    # What exists now is shared with every child; a collection would copy it.
    gc.collect()
    gc.freeze()
    # Free memory would have to be copied there before it is written.
    with contextlib.suppress(OSError):
        libc.call("malloc_trim", 0)
    reactor.run(installSignalHandlers=False)

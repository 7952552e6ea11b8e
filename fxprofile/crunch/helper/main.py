"""
The helper: it has all codecs loaded, and forks a locked child for each image.

It is spawned by the pool with an empty environment and three descriptors, and ends
when the pool does.  It decodes no image but those that it draws itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import sys
from functools import partial
from typing import Any, Final, cast

# There is no TLS in here; its libraries would double the memory that is copied with
# each child, and what a hostile one could call.
sys.modules["OpenSSL"] = cast(Any, None)

from twisted.internet import defer  # noqa: E402
from twisted.internet.pollreactor import PollReactor  # noqa: E402
from twisted.internet.protocol import Factory, connectionDone  # noqa: E402
from twisted.protocols.amp import AMP  # noqa: E402
from twisted.python.failure import Failure  # noqa: E402

from fxprofile.crunch import sandbox  # noqa: E402
from fxprofile.crunch.codec import job as default_job  # noqa: E402
from fxprofile.crunch.codec.decoders import versions  # noqa: E402
from fxprofile.crunch.commands import CONNECTION, Cancel, Crunch, HelperConfig, NoChild, Ready  # noqa: E402
from fxprofile.crunch.helper.children import Child, Job, bound_descriptors  # noqa: E402
from fxprofile.crunch.sandbox import libc, process  # noqa: E402

#: Seconds that killed children get to be gone.
_LAST_WAIT: Final = 2


class Helper(AMP):
    """The helper's end of the connection."""

    def __init__(self, reactor: Any, config: HelperConfig, job: Job, own: set[str]) -> None:
        """
        :param own: the layers that children have from the helper.
        """
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._job = job
        self._own = own
        self._base = process.address_space()
        self._baseline: set[str] | None = None
        self._children: dict[int, Child] = {}

    @Ready.responder
    async def ready(self) -> dict[str, Any]:
        """See what a child can rely on, by the first one, which has nothing to do."""
        child = Child(self._reactor, self._config, self._base, None)
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            child.start(_nothing, nowhere, nowhere)
        finally:
            os.close(nowhere)
        await child.gone
        self._baseline = child.layers
        return {"layers": "\n".join(self._own | child.layers), "versions": versions()}

    @Crunch.responder
    async def crunch(self, job: int, original: int, output: int) -> dict[str, Any]:
        """Have one image crunched."""
        try:
            child = Child(self._reactor, self._config, self._base, self._baseline or set())
            child.start(self._job, original, output)
        except OSError as error:
            raise NoChild(str(error)) from error
        finally:
            os.close(original)
            os.close(output)
        self._children[job] = child
        try:
            return await child.gone
        finally:
            del self._children[job]

    @Cancel.responder
    def cancel(self, job: int) -> dict[str, Any]:
        """End a child; it may be gone by now."""
        if job in self._children:
            self._children[job].end("cancelled")
        return {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The pool is gone, and with it whoever wanted the results."""
        super().connectionLost(reason)
        children = list(self._children.values())
        for child in children:
            child.end("cancelled")
        # Whoever inherits children from us may not know to wait for them.
        gone = defer.gatherResults([child.gone for child in children])
        gone.addTimeout(_LAST_WAIT, self._reactor)
        gone.addBoth(lambda _: self._reactor.stop())


def _nothing(data: Any, limits: Any) -> None:
    """The job of the first child."""


def _found(name: str) -> Job:
    module, _, function = name.partition(":")
    found: Job = getattr(importlib.import_module(module), function)
    return found


def main(text: str) -> None:
    """
    Be a helper until the connection ends.

    :param text: a :class:`fxprofile.crunch.commands.HelperConfig` in JSON.
    """
    config = HelperConfig.decode(text)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are sent to the whole process group: the pool decides when this ends.
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    bound_descriptors()
    own = sandbox.prepare(limits=config.limits, mode=config.mode)
    process.die_with(config.parent)
    default_job.warm_up(config.limits)
    job = _found(config.job)
    faulthandler.enable()
    reactor = PollReactor()
    defer.setDebugging(False)
    factory = Factory.forProtocol(partial(Helper, reactor, config, job, own))
    os.set_blocking(CONNECTION, False)
    reactor.adoptStreamConnection(CONNECTION, 1, factory)
    os.close(CONNECTION)
    # What is there now is shared with every child; a collection would copy it.
    gc.collect()
    gc.freeze()
    # What is free here would have to be copied there before it is written.
    with contextlib.suppress(OSError):
        libc.call("malloc_trim", 0)
    reactor.run(installSignalHandlers=False)

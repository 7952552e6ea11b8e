"""A bounded pool of threads for calls that block."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Service):
    """
    A bounded pool of threads for calls that block.

    :param reactor: receives the results.
    :param name: of the threads.
    :param size: concurrent calls; further ones wait.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self.setName(name)
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name=name)

    def startService(self) -> None:
        super().startService()
        if not self._pool.started:
            self._pool.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        # Stopping blocks until the calls in flight have returned, so it needs a thread too.
        stopper = ThreadPool(minthreads=1, maxthreads=1, name=f"{self.name} stop")
        stopper.start()
        stopped = deferToThreadPool(self._reactor, stopper, self._pool.stop)
        return stopped.addBoth(lambda _: stopper.stop())

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Run a call in a thread, and return its result.

        :raises OSError: if the system lets this process have no further thread.
        """
        try:
            return deferToThreadPool(self._reactor, self._pool, call, *args, **kwargs)
        except RuntimeError as error:
            return fail(OSError(errno.EAGAIN, f"{self.name}: {error}"))

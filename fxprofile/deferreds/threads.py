"""A bounded pool of threads for calls that block."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Service):
    """
    A bounded pool of threads for calls that block.

    A call costs a queue and one ``callFromThread``; Twisted's ``deferToThreadPool`` costs a team of
    workers, locks and contexts besides.  The methods are for the thread of the reactor.

    :param reactor: receives the results.
    :param name: of the threads.
    :param size: concurrent calls; further ones wait.
    :ivar calls: how many calls were made, for tests and benchmarks.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self.setName(name)
        self.calls = 0
        self._reactor = reactor
        self._size = size
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        # Calls whose outcome the reactor has not received.
        self._active = 0
        self._stopped: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._start_threads()

    def stopService(self) -> Deferred[None]:
        """Stop when the calls so far have returned."""
        super().stopService()
        if not self._threads:
            return succeed(None)
        self._stopped = Deferred()
        for _ in self._threads:
            self._queue.put(None)
        return self._stopped

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Run a call in a thread, and return its result.

        Cancelling this does not interrupt the call.

        :raises OSError: if the system lets this process have no thread.
        """
        if self.running and self._active >= len(self._threads) < self._size:
            try:
                self._start_thread()
            except RuntimeError as error:
                if not self._threads:
                    return fail(OSError(errno.EAGAIN, f"{self.name}: {error}"))
        self.calls += 1
        self._active += 1
        outcome: Deferred[T] = Deferred()
        self._queue.put(partial(self._call, outcome, partial(call, *args, **kwargs)))
        return outcome

    def _start_threads(self) -> None:
        """Start the threads that the calls so far need."""
        while len(self._threads) < min(self._active, self._size):
            self._start_thread()

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, name=str(self.name), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _returned(self, outcome: Deferred[T], result: T | Failure) -> None:
        self._active -= 1
        if isinstance(result, Failure):
            outcome.errback(result)
        else:
            outcome.callback(result)

    def _ended(self, thread: Thread) -> None:
        self._threads.remove(thread)
        if not self._threads and self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)
        if self.running:
            # It was started again while it stopped.
            self._start_threads()

    # The following run in a thread.

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call()
            # What it refers to must not live until the next call.
            del call
        self._reactor.callFromThread(self._ended, current_thread())

    def _call(self, outcome: Deferred[T], call: Callable[[], T]) -> None:
        result: T | Failure
        try:
            result = call()
        except BaseException:
            result = Failure()
        self._reactor.callFromThread(self._returned, outcome, result)

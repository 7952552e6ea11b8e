"""
The worker's cruncher for commands, and bounded concurrent work.

Twisted's ``gatherResults`` neither bounds the calls nor cancels the others when one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults

from fxprofile.admin.shared.tools import Tools
from fxprofile.crunch.pool import CrunchPool

T = TypeVar("T")
R = TypeVar("R")


async def started_pool(tools: Tools) -> CrunchPool:
    """
    Return the crunch pool of the worker, once it is started.

    :raises CruncherUnavailable: if its sandbox is not available.
    """
    pool = cast(CrunchPool, tools.cruncher)
    await pool.when_ready()
    return pool


async def gathered(
    call: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], slots: int
) -> list[R]:
    """
    Call a coroutine function for each item, a bounded number at the same time.

    :param slots: how many calls may run at the same time.
    :returns: the results in the order of the items.
    :raises Exception: the first that a call raises; the other calls are cancelled.
    """
    semaphore = DeferredSemaphore(slots)
    running: list[Deferred[R]] = [semaphore.run(call, item) for item in items]
    try:
        return list(await gatherResults(running, consumeErrors=True))
    except FirstError as error:
        error.subFailure.raiseException()
        raise
    finally:
        for work in running:
            work.cancel()


def temporary_file(data: bytes) -> IO[bytes]:
    """Return an unnamed file with these bytes; the caller closes it.  Blocks."""
    file = TemporaryFile()  # noqa: SIM115
    file.write(data)
    file.flush()
    return file

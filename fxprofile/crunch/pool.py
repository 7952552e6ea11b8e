"""
The cruncher's pool: slots for images, which helper processes crunch.

It is Twisted's process support and AMP.  ampoule reuses a child for many images, and
``ProcessPoolExecutor`` unpickles what a child sends; here each image gets a fresh locked child.

Release order matters.  A descriptor that was given to a connection may still wait in its send
buffer, and closing it could send another file in its place; so a job holds its files and its
slots until its helper has responded or is gone, even if its caller was cancelled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import IO, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, DeferredSemaphore
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.crunch.helper_connection import HelperConnection
from fxprofile.crunch.helpers import HelperFailed, Helpers
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.protocol import JOB, HelperConfig
from fxprofile.crunch.result import CrunchOutcome, Report
from fxprofile.crunch.sandbox import Mode, process
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched
from fxprofile.model.errors import ChildFailed, CruncherUnavailable, ImageRefused
from fxprofile.model.ports import ICruncher
from fxprofile.settings.model import Settings

_log = Logger()

#: How many slots share a helper: forks for more would wait for one another.
_SLOTS_PER_HELPER: Final = 8
#: Helpers, at least: while one is replaced, another one works.
_MIN_HELPERS: Final = 2
#: How many helpers may end while they crunch the same image.
_MAX_ENDED: Final = 3


@implementer(ICruncher)
class CrunchPool(Service):
    """
    Crunches images in fresh locked children.

    :ivar slots: how many images it works on at one time.
    :ivar min_helpers: how many helpers it starts at least.
    :ivar patience: seconds for which an image waits for a helper that works.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        processes: int,
        limits: Limits,
        mode: Mode,
        job: str = JOB,
        min_helpers: int = _MIN_HELPERS,
    ) -> None:
        """
        :param processes: how many images to work on at one time.
        :param mode: ``strict`` works only in children that can gain no privileges and
            are under seccomp or Landlock.
        :param job: what a child runs; other than the default only in tests.
        """
        self.slots = processes
        self.min_helpers = min_helpers
        self.patience = 10.0
        self._mode = mode
        self._free = DeferredSemaphore(processes)
        self._taking = DeferredLock()
        self._threads = Threads(reactor, "crunch results", min(processes, 4))
        config = HelperConfig(parent=0, limits=limits, mode=mode, job=job)
        self._helpers = Helpers(reactor, config, self._threads)

    @property
    def layers(self) -> Mapping[str, bool]:
        """Which layers of the sandbox are in force, once a helper is ready."""
        return self._helpers.layers

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the codecs, by name, once a helper is ready."""
        return self._helpers.versions

    def helpers(self) -> list[int]:
        """Return the process ids of the helpers that are ready."""
        return [helper.pid for helper in self._helpers.ready() if helper.pid is not None]

    def resize(self, processes: int) -> None:
        """Change how many images it works on at one time; those in flight go on."""
        added = processes - self.slots
        self.slots = processes
        if added > 0:
            self._free.limit += added
            self._give(added)
        else:
            # These are never given back.
            detached(self._take(-added))

    def startService(self) -> None:
        super().startService()
        if self._mode != "off":
            # A child that escaped from all other layers could read credentials from us.
            process.forbid_inspection()
        self._threads.startService()
        self._helpers.start(max(self.min_helpers, -(-self.slots // _SLOTS_PER_HELPER)))

    def stopService(self) -> Deferred[None]:
        """Stop after the images in flight, which their time limit bounds."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._helpers.refuse()
        # All slots are free when no image is in flight.
        await self._take(self.slots)
        await self._helpers.stop()
        self._give(self.slots)
        await self._threads.stopService()

    async def when_ready(self, patience: float = math.inf) -> Mapping[str, bool]:
        """
        Wait until a helper can crunch images.

        :param patience: seconds to wait.
        :returns: :attr:`layers`.
        :raises CruncherUnavailable: if none can, or the mode is strict and the sandbox is
            unavailable.
        """
        await self._helpers.least_busy(patience)
        return self.layers

    async def check(self) -> None:
        """See :meth:`fxprofile.model.ports.ICruncher.check`."""
        self._helpers.check()

    async def crunch(self, *, original: IO[bytes]) -> Crunched:
        """See :meth:`fxprofile.model.ports.ICruncher.crunch`."""
        report = await self.examine(original=original)
        outcome = report.outcome
        if outcome.reason is None:
            return Crunched(outcome.pictures, outcome.placeholder or None, outcome.pixels or None)
        error = ImageRefused if report.permanent else ChildFailed
        raise error(outcome.reason, outcome.detail)

    async def examine(self, *, original: IO[bytes]) -> Report:
        """
        Crunch an image and return everything that is known about it.

        If its helper failed, it is crunched by another one; if its child did not get the
        processor, it is crunched once more while no other image is.  Cancelling this kills
        the child.

        :raises CruncherUnavailable: if there is no helper for it.
        """
        ended, starved = 0, False
        while True:
            # Of several images that one helper had, the one that ended it is found alone.
            alone = starved or ended == _MAX_ENDED - 1
            try:
                report = await self._crunch_once(original, self.slots if alone else 1)
            except OSError as error:
                # This process has no descriptor, memory or thread left.
                raise CruncherUnavailable(str(error)) from None
            except HelperFailed as error:
                _log.warn("Crunching an image again: {error}", error=error)
                ended += error.ended
                if ended == _MAX_ENDED:
                    problem = CrunchOutcome("crashed", f"{ended} helpers ended while crunching it")
                    return Report(problem, permanent=True)
            else:
                if not report.starved or starved:
                    return report
                starved = True

    async def _crunch_once(self, original: IO[bytes], slots: int) -> Report:
        await self._take(slots)
        try:
            helper = await self._helpers.least_busy(self.patience)
            source = _reopen(original)
        except BaseException:
            self._give(slots)
            raise
        job = self._helpers.next_job()
        try:
            return await detached(self._run(helper, job, source, slots))
        except CancelledError:
            helper.cancel(job)
            raise

    async def _take(self, slots: int) -> None:
        """Take slots, in the order of the calls."""
        await self._taking.acquire()
        taken = 0
        try:
            while taken < slots:
                await self._free.acquire()
                taken += 1
        except BaseException:
            self._give(taken)
            raise
        finally:
            self._taking.release()

    def _give(self, slots: int) -> None:
        for _ in range(slots):
            self._free.release()

    async def _run(
        self, helper: HelperConnection, job: int, source: IO[bytes], slots: int
    ) -> Report:
        """Crunch one image, then free its slots.  It ends in time by itself."""
        try:
            return await self._helpers.crunch(helper, job, source)
        finally:
            self._give(slots)


def pool_from_settings(reactor: Any, settings: Settings) -> CrunchPool:
    """Return the pool that the settings describe."""
    crunch = settings.crunch
    same = {field.name: getattr(crunch, field.name) for field in fields(Limits)}
    formats = tuple(form for form in crunch.formats if form != "png")
    limits = Limits(**same | {"formats": formats})
    return CrunchPool(reactor, processes=crunch.processes, limits=limits, mode=settings.sandbox)


def _reopen(original: IO[bytes]) -> IO[bytes]:
    """
    Open an original again, read-only and with a position of its own.

    A file without a name has one under /proc; without /proc, the copy shares the position.
    """
    try:
        return open(f"/proc/self/fd/{original.fileno()}", "rb", buffering=0)
    except OSError:
        return os.fdopen(os.dup(original.fileno()), "rb", buffering=0)

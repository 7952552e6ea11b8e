"""
The cruncher: slots, helpers and the verdict on each image.

The order in which things are let go matters.  A descriptor that was handed to the
connection may still wait in its buffer, and closing it could send another file in its
place; so a job holds its files and its slot until its helper has answered or is gone,
whether or not anybody still waits for the outcome.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.crunch import result, sandbox
from fxprofile.crunch.commands import JOB, HelperConfig, NoChild
from fxprofile.crunch.helper_connection import PATIENCE, HelperLink
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.outcome import Ended, judged
from fxprofile.crunch.sandbox import LAYERS, Mode, process
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched
from fxprofile.model.errors import ChildFailed, CruncherUnavailable, ImageRefused
from fxprofile.model.ports import ICruncher
from fxprofile.settings.model import Settings

_log = Logger()

#: A helper forks for so many slots: more would wait for one another.
_SLOTS_A_HELPER: Final = 8
_GRACE: Final = 5.0
_FIRST_DELAY, _LAST_DELAY = 0.1, 30.0


@dataclass(frozen=True)
class Report:
    """
    All that is known of how an image was crunched.

    :ivar outcome: the pictures, or the reason why there are none.
    :ivar permanent: whether the image is at fault, if there is a reason.
    :ivar cpu: seconds of processor time.
    :ivar wall: seconds, the fork and the lock included.
    :ivar resident: the most memory in use, in bytes.
    """

    outcome: result.Outcome
    permanent: bool
    cpu: float = 0.0
    wall: float = 0.0
    resident: int = 0


@implementer(ICruncher)
class CrunchPool(Service):
    """
    Crunches images in fresh locked children.

    :ivar slots: how many at one time.
    :ivar versions: of the codecs, by name, once a helper is up.
    :ivar grace: seconds that a helper gets beyond the timeout of an image before it is
        taken to hang.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        processes: int,
        limits: Limits,
        mode: Mode,
        job: str = JOB,
    ) -> None:
        """
        :param processes: how many images to work on at one time.
        :param mode: ``strict`` works only in children that can gain no privileges and
            are under seccomp or Landlock.
        :param job: what a child runs; other than the default only in tests.
        """
        self.slots = processes
        self._reactor = reactor
        self._config = HelperConfig(parent=0, limits=limits, mode=mode, job=job)
        self._free = DeferredSemaphore(processes)
        self._threads = Threads(reactor, "crunch results", min(processes, 4))
        self._links: list[HelperLink] = []
        self._keepers: list[Deferred[None]] = []
        self._working: set[Deferred[Any]] = set()
        self._waiting: list[Deferred[None]] = []
        self._numbers = 0
        self._unfit = ""
        self._layers: frozenset[str] | None = None
        self.versions: Mapping[str, str] = {}
        self.grace = _GRACE

    def layers(self) -> Mapping[str, bool] | None:
        """Which layers of the sandbox are in force; None before that is known."""
        if self._layers is None:
            return None
        return {layer: layer in self._layers for layer in LAYERS}

    def helpers(self) -> list[int]:
        """The process ids of the helpers that are up."""
        return [link.pid for link in self._links if link.pid is not None]

    def startService(self) -> None:
        super().startService()
        if self._config.mode != "off":
            # A child that got out of everything else could read credentials out of us.
            process.forbid_inspection()
        self._config = replace(self._config, parent=os.getpid())
        self._threads.startService()
        helpers = -(-self.slots // _SLOTS_A_HELPER)
        self._keepers = [Deferred.fromCoroutine(self._keep()) for _ in range(helpers)]

    def stopService(self) -> Deferred[None]:
        """Stop when the images in hand are done, which their time limit bounds."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await gatherResults([_settled(work) for work in self._working])
        keepers, self._keepers = self._keepers, []
        for link in self._links:
            link.close()
        for keeper in keepers:
            keeper.cancel()
        await gatherResults([_settled(keeper) for keeper in keepers])
        await self._threads.stopService()

    async def when_ready(self) -> Mapping[str, bool]:
        """
        Wait for the first helper.

        :returns: :meth:`layers`.
        :raises CruncherUnavailable: if the mode is strict and the sandbox cannot be had.
        """
        await self._link(PATIENCE)
        return self.layers() or {}

    async def crunch(self, *, original: IO[bytes]) -> Crunched:
        """See :meth:`fxprofile.model.ports.ICruncher.crunch`."""
        report = await self.examine(original=original)
        outcome = report.outcome
        if outcome.reason is None:
            pictures = {"png": outcome.pictures, **outcome.extras}
            return Crunched(pictures, outcome.placeholder or None)
        error = ImageRefused if report.permanent else ChildFailed
        raise error(outcome.reason, outcome.detail)

    async def examine(self, *, original: IO[bytes]) -> Report:
        """
        Crunch an image and tell all about it.

        Cancelling this kills the child.

        :raises CruncherUnavailable: if there is no helper for it.
        """
        await self._free.acquire()
        try:
            link = await self._link(self._config.limits.timeout)
            self._numbers += 1
            job = self._numbers
            work = Deferred.fromCoroutine(self._work(link, job, _reopened(original)))
        except BaseException:
            self._free.release()
            raise
        self._working.add(work)

        def finished(outcome: Any) -> Any:
            self._working.discard(work)
            self._free.release()
            return outcome

        work.addBoth(finished)
        waited = _waited(work)
        # Whoever waits hears of it; if nobody does any longer, there is nobody to tell.
        work.addErrback(lambda _: None)
        try:
            return await waited
        except CancelledError:
            link.cancel(job)
            raise

    async def _work(self, link: HelperLink, job: int, original: int) -> Report:
        """Have one image crunched.  Not to be cancelled; it ends in time by itself."""
        output = _unnamed_file()
        late = self._reactor.callLater(
            self._config.limits.timeout + self.grace, self._hung, link, job
        )
        try:
            ended = Ended(**await link.crunch(job, original, output))
            outcome = await self._threads.run(_read, output, self._config.limits.max_result)
        except NoChild as error:
            raise CruncherUnavailable(f"there can be no child: {error}") from None
        except Exception as error:
            # The helper is gone, or did not understand us.
            _log.warn("A crunch helper failed: {error}", error=repr(error))
            return Report(result.Outcome(reason="crashed", detail="the helper failed"), False)
        finally:
            if late.active():
                late.cancel()
            os.close(original)
            os.close(output)
        if ended.ended == "unlocked":
            _log.error("A child did not have the layers that the first one had; it got no job")
        outcome, permanent = judged(ended, outcome, self._config.limits)
        return Report(outcome, permanent, ended.cpu, ended.wall, ended.resident)

    def _hung(self, link: HelperLink, job: int) -> None:
        _log.error("A crunch helper hangs over job {job}; it is killed", job=job)
        link.kill()

    async def _link(self, patience: float) -> HelperLink:
        """
        The helper that has the least to do.

        :param patience: seconds to wait for one to come up.
        :raises CruncherUnavailable: if none does.
        """
        if not self._links and not self._unfit and self.running:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            try:
                await waiter.addTimeout(patience, self._reactor)
            except defer.TimeoutError:
                raise CruncherUnavailable("no helper came up") from None
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        if not self._links:
            raise CruncherUnavailable(self._unfit or "the pool does not run")
        return min(self._links, key=lambda link: link.jobs)

    async def _keep(self) -> None:
        """Keep one helper alive."""
        delay = 0.0
        while self.running and not self._unfit:
            link = HelperLink(self._reactor, self._config)
            started = self._reactor.seconds()
            try:
                await self._serve(link)
            except CancelledError:
                link.close()
                await _settled(link.ended)
                return
            except Exception as error:
                _log.error("A crunch helper did not start: {error}", error=repr(error))
            lived = self._reactor.seconds() - started
            delay = 0.0 if lived > _LAST_DELAY else min(max(_FIRST_DELAY, delay * 2), _LAST_DELAY)
            if self.running and not self._unfit:
                with suppress(CancelledError):
                    await sleep(self._reactor, delay)

    async def _serve(self, link: HelperLink) -> None:
        """Start a helper and offer it until it is gone."""
        layers, self.versions = await link.start()
        first, self._layers = self._layers is None, layers
        if first:
            missing = [layer for layer in LAYERS if layer not in layers]
            _log.info(
                "Images are crunched in children locked by {layers}; not to be had: {missing}",
                layers=", ".join(layer for layer in LAYERS if layer in layers),
                missing=", ".join(missing) or "none",
            )
        if not sandbox.holds(layers, self._config.mode):
            self._unfit = (
                "crunch.sandbox is strict, and this system has neither seccomp nor Landlock for it"
            )
            _log.critical("{problem}", problem=self._unfit)
            link.close()
        else:
            self._links.append(link)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)
        try:
            await _waited(link.lost)
        finally:
            if link in self._links:
                self._links.remove(link)
        # It ends by itself when the connection does; if not, this sees to it.
        await _waited(link.close())


def pool_from_settings(reactor: Any, settings: Settings) -> CrunchPool:
    """The pool that the settings describe."""
    crunch = settings.crunch
    limits = Limits(
        timeout=crunch.timeout,
        cpu=crunch.cpu,
        memory=int(crunch.memory),
        max_pixels=crunch.max_pixels,
        max_side=crunch.max_side,
        max_scans=crunch.max_scans,
        heic=crunch.heic,
        formats=tuple(form for form in crunch.formats if form != "png"),
    )
    return CrunchPool(reactor, processes=crunch.processes, limits=limits, mode=settings.sandbox)


def _waited(work: Deferred[Any]) -> Deferred[Any]:
    """Another Deferred for the same outcome: cancelling it leaves the first alone."""
    waiter: Deferred[Any] = Deferred()

    def tell(outcome: Any) -> Any:
        if not waiter.called:
            waiter.callback(outcome)
        return outcome

    work.addBoth(tell)
    return waiter


def _settled(work: Deferred[Any]) -> Deferred[None]:
    """When this has ended, however it did."""
    settled: Deferred[None] = Deferred()

    def tell(outcome: Any) -> Any:
        settled.callback(None)
        return outcome

    work.addBoth(tell)
    return settled


def _reopened(original: IO[bytes]) -> int:
    """
    A descriptor of the original that can only be read, and has a position of its own.

    A file without a name has one under /proc; where there is no /proc, the descriptor
    is a copy that shares the position.
    """
    try:
        return os.open(f"/proc/self/fd/{original.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(original.fileno())


def _unnamed_file() -> int:
    """A descriptor of an empty file that ends with the last who has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("crunched")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _read(descriptor: int, most: int) -> result.Outcome | str:
    """What a child wrote, in a thread; a text if it is no result."""
    try:
        return result.decode(os.pread(descriptor, most + 1, 0))
    except result.BadResult as problem:
        return str(problem)

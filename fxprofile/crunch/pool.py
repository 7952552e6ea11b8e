"""
The cruncher's pool: slots for images, and helper processes that are replaced when they end.

It is Twisted's process support and AMP.  ampoule reuses a child for many images, and
``ProcessPoolExecutor`` unpickles what a child sends; here each image gets a fresh locked child.

Release order matters.  A descriptor that was given to a connection may still wait in its send
buffer, and closing it could send another file in its place; so a job holds its files and its
slot until its helper has responded or is gone, even if its caller was cancelled.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import IO, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    TimeoutError,
    gatherResults,
)
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.crunch.commands import JOB, ChildExit, CrunchCommand, ForkFailed, HelperConfig
from fxprofile.crunch.helper_connection import START_TIMEOUT, HelperConnection
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.result import CrunchOutcome, InvalidResult, Report, decode, judge
from fxprofile.crunch.sandbox import LAYERS, Mode, is_enough, process
from fxprofile.crunch.signature import SIGNATURE_BYTES, sniff
from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched
from fxprofile.model.errors import ChildFailed, CruncherUnavailable, ImageRefused
from fxprofile.model.ports import ICruncher
from fxprofile.settings.model import Settings

_log = Logger()

#: How many slots share a helper: forks for more would wait for one another.
_SLOTS_PER_HELPER: Final = 8
#: The delay before a helper that ended soon is replaced.
_BACKOFF: Final = Backoff(first=0.1, cap=30.0, shortest=0.5)

#: Notifications: a helper became ready or will not; the pool stops.
_HELPERS, _STOP = "helpers", "stop"


@implementer(ICruncher)
class CrunchPool(Service):
    """
    Crunches images in fresh locked children.

    :ivar slots: how many images it works on at one time.
    :ivar layers: which layers of the sandbox are in force, once a helper is ready.
    :ivar versions: of the codecs, by name, once a helper is ready.
    :ivar grace: seconds that a helper gets beyond the timeout of an image before it is
        considered hung.
    """

    def __init__(
        self, reactor: Any, *, processes: int, limits: Limits, mode: Mode, job: str = JOB
    ) -> None:
        """
        :param processes: how many images to work on at one time.
        :param mode: ``strict`` works only in children that can gain no privileges and
            are under seccomp or Landlock.
        :param job: what a child runs; other than the default only in tests.
        """
        self.slots = processes
        self.layers: Mapping[str, bool] = {}
        self.versions: Mapping[str, str] = {}
        self.grace = 5.0
        self._reactor = reactor
        self._config = HelperConfig(parent=0, limits=limits, mode=mode, job=job)
        self._max_result = limits.max_result
        self._free = DeferredSemaphore(processes)
        self._threads = Threads(reactor, "crunch results", min(processes, 4))
        self._jobs = itertools.count(1)
        self._helpers: list[HelperConnection] = []
        self._keepers: list[Deferred[None]] = []
        self._notifier = Notifier()
        self._unfit = ""

    def helpers(self) -> list[int]:
        """Return the process ids of the helpers that are ready."""
        return [helper.pid for helper in self._ready() if helper.pid is not None]

    def _ready(self) -> list[HelperConnection]:
        return [helper for helper in self._helpers if helper.is_ready]

    def startService(self) -> None:
        super().startService()
        if self._config.mode != "off":
            # A child that escaped from all other layers could read credentials from us.
            process.forbid_inspection()
        self._config = replace(self._config, parent=os.getpid())
        self._threads.startService()
        helpers = -(-self.slots // _SLOTS_PER_HELPER)
        self._keepers = [Deferred.fromCoroutine(self._keep_helper()) for _ in range(helpers)]

    def stopService(self) -> Deferred[None]:
        """Stop after the images in flight, which their time limit bounds."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._notifier.notify(_HELPERS)
        # All slots are free when no image is in flight.
        await gatherResults([self._free.acquire() for _ in range(self.slots)])
        self._notifier.notify(_STOP)
        for helper in self._helpers:
            helper.close()
        await gatherResults(self._keepers)
        for _ in range(self.slots):
            self._free.release()
        await self._threads.stopService()

    async def when_ready(self) -> Mapping[str, bool]:
        """
        Wait for the first helper.

        :returns: :attr:`layers`.
        :raises CruncherUnavailable: if the mode is strict and the sandbox is unavailable.
        """
        await self._least_busy(START_TIMEOUT)
        return self.layers

    async def crunch(self, *, original: IO[bytes]) -> Crunched:
        """See :meth:`fxprofile.model.ports.ICruncher.crunch`."""
        report = await self.examine(original=original)
        outcome = report.outcome
        if outcome.reason is None:
            return Crunched(outcome.pictures, outcome.placeholder or None)
        error = ImageRefused if report.permanent else ChildFailed
        raise error(outcome.reason, outcome.detail)

    async def examine(self, *, original: IO[bytes]) -> Report:
        """
        Crunch an image and return everything that is known about it.

        Cancelling this kills the child.

        :raises CruncherUnavailable: if there is no helper for it.
        """
        await self._free.acquire()
        try:
            helper = await self._least_busy(self._config.limits.timeout)
            source = _reopen(original)
        except BaseException:
            self._free.release()
            raise
        job = next(self._jobs)
        try:
            return await detached(self._run(helper, job, source))
        except CancelledError:
            helper.cancel(job)
            raise

    async def _run(self, helper: HelperConnection, job: int, source: IO[bytes]) -> Report:
        """Crunch one image, then free its slot.  It ends in time by itself."""
        limits = self._config.limits
        helper.jobs += 1
        try:
            with source, _unnamed_file() as output:
                head = os.pread(source.fileno(), SIGNATURE_BYTES, 0)
                response = helper.callRemote(
                    CrunchCommand,
                    job=job,
                    original=source.fileno(),
                    output=output.fileno(),
                    heic=sniff(head, heic=limits.heic) == "heic",
                )
                end: ChildExit = await response.addTimeout(
                    limits.timeout + self.grace, self._reactor
                )
                written = await self._threads.run(_read, output, self._max_result)
        except ForkFailed as error:
            raise CruncherUnavailable(f"cannot fork a child: {error}") from None
        except TimeoutError:
            _log.error("Crunch helper hangs in job {job}; killing it", job=job)
            helper.kill()
            return Report(CrunchOutcome("crashed", "the helper hung"))
        except Exception as error:
            # The helper is gone, or did not understand the command.
            _log.warn("Crunch helper failed: {error}", error=repr(error))
            return Report(CrunchOutcome("crashed", "the helper failed"))
        finally:
            helper.jobs -= 1
            self._free.release()
        if end["ended"] == "unlocked":
            _log.error("Child lacked sandbox layers that the first child had; its job did not run")
        return judge(end, written, limits)

    async def _least_busy(self, patience: float) -> HelperConnection:
        """
        Return the ready helper with the fewest jobs.

        :param patience: seconds to wait for one to become ready.
        :raises CruncherUnavailable: if none does.
        """
        if self.running and not self._unfit and not self._ready():
            with self._notifier.subscribe(_HELPERS) as change:
                await change.wait(self._reactor, patience)
        ready = self._ready()
        if not self.running or not ready:
            problem = "no helper became ready" if self.running else "the pool is not running"
            raise CruncherUnavailable(self._unfit or problem)
        return min(ready, key=lambda helper: helper.jobs)

    async def _keep_helper(self) -> None:
        """Start a helper, and another one whenever it ends, until the pool stops."""
        failures = 0
        with self._notifier.subscribe(_STOP) as stop:
            while self.running and not self._unfit:
                helper = HelperConnection(self._reactor, self._config)
                self._helpers.append(helper)
                started = self._reactor.seconds()
                try:
                    self._admit(helper, *await helper.start())
                    if helper.is_ready:
                        await helper.lost
                except Exception as error:
                    if self.running:
                        _log.error("Crunch helper did not start: {error}", error=repr(error))
                self._helpers.remove(helper)
                await helper.close()
                lived = self._reactor.seconds() - started
                failures = 0 if lived > _BACKOFF.cap else failures + 1
                if failures and not self._unfit:
                    await stop.wait(self._reactor, _BACKOFF.delay(failures))

    def _admit(
        self, helper: HelperConnection, layers: frozenset[str], versions: Mapping[str, str]
    ) -> None:
        """Give a helper jobs from now on, if the sandbox of its children is good enough."""
        if not self.layers:
            _log.info(
                "Crunch sandbox: layers in force: {layers}; unavailable: {missing}",
                layers=", ".join(layer for layer in LAYERS if layer in layers),
                missing=", ".join(layer for layer in LAYERS if layer not in layers) or "none",
            )
        self.layers = {layer: layer in layers for layer in LAYERS}
        self.versions = versions
        if is_enough(layers, self._config.mode):
            helper.is_ready = True
        else:
            self._unfit = (
                "crunch.sandbox is strict, but neither seccomp nor Landlock is available;"
                " allow one of them, or set it to best-effort"
            )
            _log.critical("{problem}", problem=self._unfit)
        self._notifier.notify(_HELPERS)


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


def _unnamed_file() -> IO[bytes]:
    """Open an empty file that is freed when the last process that has it open ends."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("crunched"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _read(output: IO[bytes], limit: int) -> CrunchOutcome | str:
    """Return a child's result, or what is wrong with it; runs in a thread."""
    try:
        return decode(os.pread(output.fileno(), limit + 1, 0))
    except InvalidResult as problem:
        return str(problem)

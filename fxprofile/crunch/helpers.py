"""
The helpers of a pool: started, watched, and replaced when they end or fail.

A helper gets jobs only while it responds to pings and its children can crunch a drawing of
our own.
"""

from __future__ import annotations

import base64
import itertools
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, Final

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger

from fxprofile.crunch.commands import CrunchCommand, ForkFailed
from fxprofile.crunch.helper_connection import START_TIMEOUT, HelperConnection
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.protocol import HelperConfig
from fxprofile.crunch.result import CrunchOutcome, InvalidResult, Report, decode, judge
from fxprofile.crunch.sandbox import LAYERS, is_enough
from fxprofile.crunch.signature import SIGNATURE_BYTES, sniff
from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.errors import ExpectedError
from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.model.errors import CruncherUnavailable

_log = Logger()

#: The delay before a helper that ended soon is replaced.
_BACKOFF: Final = Backoff(first=0.1, cap=5.0, shortest=0.5)
#: Seconds that a helper gets, beyond twice the timeout of an image, to report the end of its
#: child.  A child may take its timeout once before it is locked, and once for the image.
_GRACE: Final = 5.0
#: Seconds between two checks of a helper.
_PERIOD: Final = 0.5
#: Age in seconds of the last crunched image at which a helper crunches the drawing.
_IDLE: Final = 15.0
#: Age in seconds of the last crunched image at which the helpers are unhealthy.
_STALE: Final = 60.0

#: A PNG of one pixel, which every working child crunches.
_DRAWING: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)

#: Notifications: a helper can work, or none will be able to; all of them stop.
_CHANGE, _STOP = "change", "stop"


class HelperFailed(ExpectedError):
    """
    An image has no outcome, because of its helper.

    :ivar ended: whether the helper has ended, for which the image may be the reason.
    """

    def __init__(self, problem: str, *, ended: bool) -> None:
        super().__init__(problem)
        self.ended = ended


class Helpers:
    """
    The helpers of a pool.

    :ivar layers: which layers of the sandbox are in force, once a helper is ready.
    :ivar versions: of the codecs, by name, once a helper is ready.
    """

    def __init__(self, reactor: Any, config: HelperConfig, threads: Threads) -> None:
        """
        :param threads: read what children have written.
        """
        self.layers: Mapping[str, bool] = {}
        self.versions: Mapping[str, str] = {}
        self._reactor = reactor
        self._config = config
        self._threads = threads
        self._numbers = itertools.count(1)
        self._connections: list[HelperConnection] = []
        self._keepers: list[Deferred[None]] = []
        self._notifier = Notifier()
        self._running = False
        self._unfit = ""

    def ready(self) -> list[HelperConnection]:
        """Return the helpers that get jobs."""
        return [helper for helper in self._connections if not helper.problem]

    def start(self, number: int) -> None:
        """Start so many helpers."""
        self._running = True
        self._config = replace(self._config, parent=os.getpid())
        self._keepers = [Deferred.fromCoroutine(self._keep()) for _ in range(number)]

    def refuse(self) -> None:
        """Refuse all further jobs, and those that wait for a helper."""
        self._running = False
        self._notifier.notify(_CHANGE)

    async def stop(self) -> None:
        """Stop all helpers, and wait until they have ended."""
        self._notifier.notify(_STOP)
        for helper in self._connections:
            helper.close()
        await gatherResults(self._keepers)

    def check(self) -> None:
        """
        Check that a helper has crunched an image lately.

        :raises CruncherUnavailable: if none has.
        """
        newest = max((helper.proven for helper in self.ready()), default=-math.inf)
        if not self._running or self._reactor.seconds() - newest > _STALE:
            raise CruncherUnavailable(self._problem())

    async def least_busy(self, patience: float) -> HelperConnection:
        """
        Return the ready helper with the fewest jobs.

        :param patience: seconds to wait for one to become ready.
        :raises CruncherUnavailable: if none does.
        """
        deadline = self._reactor.seconds() + patience
        while self._running and not self._unfit and not self.ready():
            left = deadline - self._reactor.seconds()
            if left <= 0:
                break
            with self._notifier.subscribe(_CHANGE) as change:
                await change.wait(self._reactor, min(left, START_TIMEOUT))
        ready = self.ready()
        if not self._running or not ready:
            raise CruncherUnavailable(self._problem())
        return min(ready, key=lambda helper: helper.jobs)

    def _problem(self) -> str:
        if not self._running:
            return "the pool is not running"
        problems = {helper.problem for helper in self._connections if helper.problem}
        return self._unfit or "; ".join(sorted(problems)) or "no helper crunches images"

    def next_job(self) -> int:
        """Return the number of a new job."""
        return next(self._numbers)

    async def crunch(self, helper: HelperConnection, job: int, source: IO[bytes]) -> Report:
        """
        Have a helper crunch an image in a child, and close the image.

        :raises HelperFailed: if the helper ended, or its children cannot crunch any image.
        :raises OSError: if this process lacks a resource.
        """
        report = await self._crunch(helper, job, source)
        if report.outcome.reason is None or report.permanent:
            helper.proven = self._reactor.seconds()
        elif not report.starved:
            await self._prove(helper)
            if helper.problem:
                raise HelperFailed(helper.problem, ended=False)
        return report

    async def _crunch(self, helper: HelperConnection, job: int, source: IO[bytes]) -> Report:
        limits = self._config.limits
        helper.jobs += 1
        try:
            with source, unnamed_file() as output:
                head = os.pread(source.fileno(), SIGNATURE_BYTES, 0)
                try:
                    end = await helper.callRemote(
                        CrunchCommand,
                        job=job,
                        original=source.fileno(),
                        output=output.fileno(),
                        heic=sniff(head, heic=limits.heic) == "heic",
                    ).addTimeout(2 * limits.timeout + _GRACE, self._reactor)
                except ForkFailed as error:
                    problem = f"cannot fork a child: {error}"
                    self._set_problem(helper, problem)
                    raise HelperFailed(problem, ended=False) from None
                except CancelledError:
                    raise
                except Exception as error:
                    # The helper is gone, hangs, or did not understand the command.
                    helper.kill()
                    raise HelperFailed(repr(error), ended=True) from None
                written = await self._threads.run(_read, output, limits)
        finally:
            helper.jobs -= 1
        if end["ended"] == "unlocked":
            _log.error("Child lacked sandbox layers that the first child had; its job did not run")
        return judge(end, written, limits)

    async def _keep(self) -> None:
        """Start a helper, and another one whenever it ends, until all of them stop."""
        failures = 0
        with self._notifier.subscribe(_STOP) as stop:
            while self._running and not self._unfit:
                helper = HelperConnection(self._reactor, self._config)
                self._connections.append(helper)
                started = self._reactor.seconds()
                try:
                    self._admit(*await helper.start())
                    if not self._unfit:
                        await self._watch(helper)
                except Exception as error:
                    if self._running:
                        _log.error("Crunch helper did not start: {error}", error=repr(error))
                self._connections.remove(helper)
                await helper.close()
                lived = self._reactor.seconds() - started
                failures = 0 if lived > _BACKOFF.cap else failures + 1
                if failures and not self._unfit:
                    await stop.wait(self._reactor, _BACKOFF.delay(failures))

    def _admit(self, layers: frozenset[str], versions: Mapping[str, str]) -> None:
        """Record the layers and codecs of a helper, and whether its sandbox is good enough."""
        if not self.layers:
            _log.info(
                "Crunch sandbox: layers in force: {layers}; unavailable: {missing}",
                layers=", ".join(layer for layer in LAYERS if layer in layers),
                missing=", ".join(layer for layer in LAYERS if layer not in layers) or "none",
            )
        self.layers = {layer: layer in layers for layer in LAYERS}
        self.versions = versions
        if not is_enough(layers, self._config.mode):
            self._unfit = (
                "crunch.sandbox is strict, but neither seccomp nor Landlock is available;"
                " allow one of them, or set it to best-effort"
            )
            _log.critical("{problem}", problem=self._unfit)
            self._notifier.notify(_CHANGE)

    async def _watch(self, helper: HelperConnection) -> None:
        """Check a helper until it ends."""
        loops = [
            Deferred.fromCoroutine(loop).addErrback(lambda failure: failure.trap(CancelledError))
            for loop in (self._ping(helper), self._prove_often(helper))
        ]
        await helper.lost
        for loop in loops:
            loop.cancel()
        await gatherResults(loops)

    async def _ping(self, helper: HelperConnection) -> None:
        while await helper.responds():
            await sleep(self._reactor, _PERIOD)
        _log.error("Crunch helper does not respond; killing it")
        helper.kill()

    async def _prove_often(self, helper: HelperConnection) -> None:
        while True:
            if helper.problem or self._reactor.seconds() - helper.proven > _IDLE:
                await self._prove(helper)
            await sleep(self._reactor, _PERIOD)

    async def _prove(self, helper: HelperConnection) -> None:
        """Have a helper crunch the drawing, and give it jobs only if that succeeds."""
        try:
            drawing = unnamed_file()
            drawing.write(_DRAWING)
            report = await self._crunch(helper, self.next_job(), drawing)
        except (OSError, HelperFailed) as error:
            self._set_problem(helper, str(error))
            return
        if report.outcome.reason is None:
            helper.proven = self._reactor.seconds()
            self._set_problem(helper, "")
        elif not report.starved:
            problem = f"cannot crunch: {report.outcome.reason}: {report.outcome.detail}"
            self._set_problem(helper, problem)

    def _set_problem(self, helper: HelperConnection, problem: str) -> None:
        if helper.problem == problem or helper.lost.called:
            return
        if problem:
            _log.error("Crunch helper gets no jobs: {problem}", problem=problem)
        helper.problem = problem
        self._notifier.notify(_CHANGE)


def unnamed_file() -> IO[bytes]:
    """Open an empty file that is freed when the last process that has it open ends."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("crunched"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _read(output: IO[bytes], limits: Limits) -> CrunchOutcome | str:
    """Return a child's result, or what is wrong with it; runs in a thread."""
    try:
        return decode(os.pread(output.fileno(), limits.max_result + 1, 0), limits.fit)
    except InvalidResult as problem:
        return str(problem)

"""
What SIGHUP and SIGUSR1 do: read the settings again, and open the log file again.

Twisted handles neither for a service, and without a handler both end a process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fxprofile.app.services import Services
from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import Settings, values

if TYPE_CHECKING:
    from fxprofile.app.processes import Supervisor

#: What the supervisor of several processes applies at its own start only.
SUPERVISED = (
    *("web.listen", "web.processes", "images.listen", "images.processes"),
    *("admin.listen", "logging.format", "logging.rotate"),
)

_log = Logger()


def on_signal(number: signal.Signals, reactor: Any, action: Callable[[], object]) -> None:
    """Call a function in the reactor's thread when this process gets a signal."""
    signal.signal(number, lambda *_: reactor.callFromThread(action))


def ignore_further_stops() -> None:
    """Ignore further signals to stop, which the reactor reports as errors while it stops."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Reloader:
    """
    Reads the settings again, and applies the ones that can change in a running process.

    :param read: returns the settings, or raises :class:`ConfigError`; it may block.
    :param services: of the process.
    :param supervisor: of further processes, which are replaced by ones with the new settings.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        services: Services,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._read = read
        self._services = services
        self._values = dict(values(services.settings))
        self._lock = DeferredLock()
        self._requested = self._begun = 0

    async def reload(self) -> None:
        """
        Read and check the settings; apply what can change, and log what needs a restart.

        Calls are run one after the other; all that wait share the next run.
        """
        self._requested += 1
        request = self._requested
        async with self._lock:
            if self._begun < request:
                self._begun = self._requested
                await self._reload()

    async def _reload(self) -> None:
        settings = await read_again(self._services.reactor, self._read)
        if settings is None:
            return
        applied, waiting = [], []
        for key, value in values(settings):
            if value == self._values[key]:
                continue
            results = [apply(value) for apply in self._services.followers.get(key, ())]
            if self._supervisor is not None:
                results.append(not key.startswith(SUPERVISED))
            if not results or False in results:
                waiting.append(key)
            else:
                applied.append(key)
                self._values[key] = value
        _log.info("Settings reloaded; changed: {keys}", keys=", ".join(applied) or "none")
        if waiting:
            _log.warn("Changed settings that need a restart: {keys}", keys=", ".join(waiting))
        if self._supervisor is not None:
            await self._supervisor.reload()


async def read_again(reactor: Any, read: Callable[[], Settings]) -> Settings | None:
    """Return the settings, or log why they cannot be used."""
    try:
        settings: Settings = await deferToThreadPool(reactor, reactor.getThreadPool(), read)
    except ConfigError as error:
        _log.error("Settings not reloaded, nothing has changed: {error}", error=error)
        return None
    return settings

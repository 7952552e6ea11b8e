"""
Notify systemd that a process is ready, reloads, stops, and is alive (sd_notify(3)).

The packages for this need libsystemd or send on a blocking socket; the protocol is one datagram.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class ServiceManager(Service):
    """
    The service manager that has started this process; nothing happens without one.

    While it runs, it reports twice in each watchdog interval that the reactor runs.

    :param clock: the time of the reports.
    :param environ: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, if they are set.
    """

    _log = Logger()
    name = "service manager"

    def __init__(self, clock: Any, environ: Mapping[str, str]) -> None:
        self._clock = clock
        self._environ = environ
        self._alive = LoopingCall(self.notify, "WATCHDOG=1")
        self._alive.clock = clock

    def startService(self) -> None:
        super().startService()
        seconds = self._watchdog_seconds()
        if seconds:
            self._alive.start(seconds / 2)

    def _watchdog_seconds(self) -> float:
        if self._environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0
        try:
            return int(self._environ.get("WATCHDOG_USEC", "0")) / 1e6
        except ValueError:
            return 0

    def stopService(self) -> None:
        # It ends with the process: a stop may take longer than the interval.
        super().stopService()
        self.notify("STOPPING=1")

    def ready(self) -> None:
        """Report that the process is ready, or has been reloaded."""
        self.notify("READY=1")

    def reloading(self) -> None:
        """Report that the process reloads its settings; :meth:`ready` ends that."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def notify(self, *states: str) -> None:
        """Send states, such as ``READY=1``."""
        address = self._environ.get("NOTIFY_SOCKET")
        if not address:
            return
        if address.startswith("@"):
            # A name in the abstract namespace.
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(states).encode(), address)
        except OSError as error:
            self._log.warn("Cannot notify systemd: {error}", error=error)

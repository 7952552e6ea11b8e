"""
Where log events go, and how they look.

Everything in this process logs through :mod:`twisted.logger`; what libraries say to
:mod:`logging` comes there too.  ``text`` is for people; ``mozlog`` is one JSON object a
line, as Mozilla's log pipelines read it
(https://wiki.mozilla.org/Firefox/Services/Logging).
"""

from __future__ import annotations

import json
import logging
import os
import socket
from typing import IO, Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    textFileLogObserver,
)

#: The severities of syslog (RFC 5424, section 6.2.1).
_SEVERITY = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}

#: The members of a request's line, in mozlog's ``Fields``.
_REQUEST = ("method", "route", "status", "errno", "ms", "uid_hash", "request_id")


def make_observer(format_name: str, level: str, output: IO[str]) -> ILogObserver:
    """
    Make the observer that writes the log.

    :param format_name: the setting ``logging.format``.
    :param level: the setting ``logging.level``: what is below is dropped.
    """
    observer: Any
    observer = _Mozlog(output) if format_name == "mozlog" else textFileLogObserver(output)
    predicate = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
    # Each port and each client connection would announce itself.
    for namespace in ("twisted.internet.protocol", "twisted.web.client", "twisted.protocols.amp"):
        predicate.setLogLevelForNamespace(namespace, LogLevel.warn)
    return FilteringLogObserver(observer, [predicate])


class StandardLibraryHandler(logging.Handler):
    """
    Passes on what libraries log with the standard library, from warnings up.

    Unhandled it would come by way of the standard error, each line of a traceback as an
    event of its own.  Nor is it a failure of ours: the error, if it matters, is raised too.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info and record.exc_info[1]
        if error:
            text = f"{text}: {type(error).__name__}: {error}"
        level = LogLevel.warn if record.levelno < logging.ERROR else LogLevel.error
        Logger(namespace=record.name).emit(level, "{text}", text=text)


class _Mozlog:
    """Writes events as JSON, one a line."""

    def __init__(self, output: IO[str]) -> None:
        self._output = output
        self._hostname = socket.gethostname()

    def __call__(self, event: LogEvent) -> None:
        fields: dict[str, Any] = {}
        if event.get("log_type") == "request.summary":
            fields = {name: event.get(name) for name in _REQUEST}
        else:
            fields["msg"] = formatEvent(event)
            if "log_failure" in event:
                fields["traceback"] = eventAsText(
                    event, includeTimestamp=False, includeSystem=False
                )
        line = {
            # In nanoseconds, of which a float of today holds no single ones.
            "Timestamp": round(event.get("log_time", 0) * 1e6) * 1000,
            "Type": event.get("log_type") or event.get("log_namespace") or "-",
            "Logger": "fxprofile",
            "Hostname": self._hostname,
            "EnvVersion": "2.0",
            "Severity": _SEVERITY.get(event.get("log_level", LogLevel.info), 6),
            "Pid": os.getpid(),
            "Fields": fields,
        }
        self._output.write(json.dumps(line, default=str) + "\n")
        self._output.flush()

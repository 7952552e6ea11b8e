"""
The log of a process: ``text`` for people, or ``mozlog``.

``mozlog`` is one JSON object per line, as Mozilla's log pipelines read it
(https://wiki.mozilla.org/Firefox/Services/Logging).  Everything logs through
:mod:`twisted.logger`; events of the standard library's :mod:`logging` are forwarded to it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from typing import IO, Any, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python import threadable
from twisted.python.logfile import LogFile

from fxprofile.telemetry import traces

#: The severities of syslog (RFC 5424, section 6.2.1).
_SEVERITY = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}

#: The members of events, by their type, that become mozlog's ``Fields``.
_FIELDS = {
    "request.summary": (
        "method",
        "route",
        "status",
        "errno",
        "ms",
        "uid_hash",
        "request_id",
        "trace_id",
    ),
    "activityEvent": ("event", "uid", "agent", "client_id"),
}


class LevelFilter(LogLevelFilterPredicate):
    """
    Drops events below a level.

    :param level: the setting ``logging.level``.
    """

    def __init__(self, level: str) -> None:
        super().__init__(defaultLogLevel=LogLevel.levelWithName(level))
        # These log the start and the stop of every port and client connection.
        for name in ("twisted.internet.protocol", "twisted.web.client", "twisted.protocols.amp"):
            self.setLogLevelForNamespace(name, LogLevel.warn)

    def set_level(self, level: str) -> None:
        """Change the level."""
        self.setLogLevelForNamespace("", LogLevel.levelWithName(level))


def make_observer(
    format_name: str, level: str | LevelFilter, output: IO[str] | LogFile
) -> ILogObserver:
    """
    Return the observer that writes the log.

    :param format_name: the setting ``logging.format``.
    :param level: the setting ``logging.level``, or the filter that can change it.
    """
    format_event = _mozlog if format_name == "mozlog" else _text
    observer = FileLogObserver(cast(IO[str], output), format_event)
    return FilteringLogObserver(observer, [LevelFilter(level) if isinstance(level, str) else level])


class RotatedLogFile(LogFile):
    """
    A log file that is rotated by its size.

    Twisted's own would be closed for good if it could not be opened again.

    :param rotateLength: the setting ``logging.rotate_bytes``.
    :param maxRotatedFiles: the setting ``logging.rotate_keep``.
    """

    synchronized = ["reopen"]  # noqa: RUF012

    def reopen(self) -> None:
        """
        Open the file of this name, which another program may have moved or removed.

        :raises OSError: if it cannot be opened; the log goes on in the old file.
        """
        old = self._file
        self._openFile()
        old.close()


threadable.synchronize(RotatedLogFile)


def _text(event: LogEvent) -> str | None:
    """Return an event as text; if it belongs to a trace, the first line ends with its id."""
    text, trace_id = formatEventAsClassicLogText(event), traces.trace_id()
    if text is None or trace_id is None or "trace_id" in event:
        return text
    first, *others = text.split("\n", 1)
    return "\n".join((f"{first} trace={trace_id}", *others))


class StandardLibraryHandler(logging.Handler):
    """
    Forwards warnings and errors of the standard library's :mod:`logging` to twisted.logger.

    Without it they would go to the standard error, and each line of a traceback would become
    an event of its own.  An exception is logged as text, not as a failure: if it matters, the
    library raises it as well.
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


def _mozlog(event: LogEvent) -> str:
    """Return an event as a line of JSON."""
    fields: dict[str, Any] = {}
    names = _FIELDS.get(event.get("log_type", ""))
    if names is not None:
        fields = {name: event.get(name) for name in names}
    else:
        fields["msg"] = formatEvent(event)
        if (trace_id := traces.trace_id()) is not None:
            fields["trace_id"] = trace_id
        if "log_failure" in event:
            fields["traceback"] = eventAsText(event, includeTimestamp=False, includeSystem=False)
    line = {
        # In nanoseconds; a float of the current time resolves only microseconds.
        "Timestamp": round(event.get("log_time", 0) * 1e6) * 1000,
        "Type": event.get("log_type") or event.get("log_namespace") or "-",
        "Logger": "fxprofile",
        "Hostname": socket.gethostname(),
        "EnvVersion": "2.0",
        "Severity": _SEVERITY.get(event.get("log_level", LogLevel.info), 6),
        "Pid": os.getpid(),
        "Fields": fields,
    }
    return json.dumps(line, default=str) + "\n"

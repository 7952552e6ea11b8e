"""
What is not a client's fault is reported to Sentry: failures that were logged as such, and
requests that failed because a server behind this one is away.

An outage fails every request, so it is told now and then, and not of each.

A report holds the exception and where it was raised.  No local variables, no requests
and no breadcrumbs go with it: any of them may hold a token, an address or a picture.
"""

from __future__ import annotations

from typing import Any, Final

import sentry_sdk
from sentry_sdk.utils import event_from_exception
from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from fxprofile import __version__

#: What of an event is sent; see https://develop.sentry.dev/sdk/data-model/event-payloads/.
_KEPT = (
    *("event_id", "timestamp", "platform", "level", "logger", "exception"),
    *("release", "environment", "sdk", "tags"),
)


#: Seconds between two reports of one kind of outage.
BETWEEN_OUTAGES: Final = 60


@implementer(ILogObserver)
class ErrorReports:
    """
    Sends failures to Sentry, from a thread of its client.

    :param dsn: the setting ``sentry.dsn``.
    :param environment: the setting ``environment``.
    :param role: of this process.
    :param transport: sends the reports; that of the library if left out.
    """

    def __init__(self, *, dsn: str, environment: str, role: str, transport: Any = None) -> None:
        self._client = sentry_sdk.Client(
            dsn=dsn,
            environment=environment,
            release=__version__,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            send_default_pii=False,
            max_breadcrumbs=0,
            server_name="",
            before_send=scrubbed,
            transport=transport,
        )
        self._scope = sentry_sdk.Scope()
        self._scope.set_tag("role", role)
        self._told: dict[type[BaseException], float] = {}

    def __call__(self, event: LogEvent) -> None:
        failure, outage = event.get("log_failure"), event.get("outage")
        if failure is not None and failure.value is not None:
            self._report(failure.value, "error")
        elif outage is not None and self._is_news(outage, event["log_time"]):
            self._report(outage, "warning")

    def _is_news(self, outage: BaseException, now: float) -> bool:
        told = self._told.get(type(outage))
        if told is not None and 0 <= now - told < BETWEEN_OUTAGES:
            return False
        self._told[type(outage)] = now
        return True

    def _report(self, error: BaseException, level: str) -> None:
        report, hint = event_from_exception(error, client_options=self._client.options)
        report["level"] = level  # type: ignore[typeddict-item]
        self._client.capture_event(report, hint, scope=self._scope)

    def close(self) -> None:
        """Send what is not sent yet, for a moment."""
        self._client.close(timeout=2)


def scrubbed(event: Any, hint: Any) -> Any:
    """What of a report may leave this machine."""
    kept = {key: event[key] for key in _KEPT if key in event}
    for exception in kept.get("exception", {}).get("values", []):
        # The text of an error may quote what a client or a server sent.
        exception["value"] = "(not sent)"
        for frame in exception.get("stacktrace", {}).get("frames", []):
            frame.pop("vars", None)
    return kept

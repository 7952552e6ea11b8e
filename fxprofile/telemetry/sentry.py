"""
Error reports to Sentry: logged failures, and requests that failed because of an outage.

An outage of another server fails every request, so each kind of outage is reported at most once
a minute.  A report contains the exception and where it was raised.  It contains no local
variables, requests or breadcrumbs, which may hold a token, an address or an image.
"""

from __future__ import annotations

from typing import Any, Final

import sentry_sdk
from sentry_sdk.utils import event_from_exception
from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from fxprofile import __version__

#: The members of an event that are sent; see https://develop.sentry.dev/sdk/data-model/event-payloads/.
_KEPT = (
    *("event_id", "timestamp", "platform", "level", "logger", "exception"),
    *("release", "environment", "sdk", "tags"),
)


#: Seconds between two reports of the same kind of outage.
BETWEEN_OUTAGES: Final = 60


@implementer(ILogObserver)
class ErrorReports:
    """
    Sends failures to Sentry, from a thread of the SDK's client.

    :param dsn: the setting ``sentry.dsn``.
    :param environment: the setting ``environment``.
    :param role: of this process.
    :param transport: sends the reports; the SDK's own by default.
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
        self._reported_at: dict[type[BaseException], float] = {}

    def __call__(self, event: LogEvent) -> None:
        failure, outage = event.get("log_failure"), event.get("outage")
        if failure is not None and failure.value is not None:
            self._report(failure.value, "error")
        elif outage is not None and self._is_due(outage, event["log_time"]):
            self._report(outage, "warning")

    def _is_due(self, outage: BaseException, now: float) -> bool:
        reported_at = self._reported_at.get(type(outage))
        if reported_at is not None and 0 <= now - reported_at < BETWEEN_OUTAGES:
            return False
        self._reported_at[type(outage)] = now
        return True

    def _report(self, error: BaseException, level: str) -> None:
        report, hint = event_from_exception(error, client_options=self._client.options)
        report["level"] = level  # type: ignore[typeddict-item]
        self._client.capture_event(report, hint, scope=self._scope)

    def close(self) -> None:
        """Send the reports that are queued, for at most two seconds."""
        self._client.close(timeout=2)


def scrubbed(event: Any, hint: Any) -> Any:
    """Return the parts of a report that may leave this machine."""
    kept = {key: event[key] for key in _KEPT if key in event}
    for exception in kept.get("exception", {}).get("values", []):
        # The text of an error may quote what a client or a server sent.
        exception["value"] = "(not sent)"
        for frame in exception.get("stacktrace", {}).get("frames", []):
            frame.pop("vars", None)
    return kept

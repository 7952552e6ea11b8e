"""Errors of HTTP requests.  Their texts repeat nothing that was sent."""

from __future__ import annotations

from fxprofile.deferreds.errors import ExpectedError


class HttpError(ExpectedError):
    """There is no complete response to a request."""


class ConnectFailed(HttpError):
    """No connection to the server could be made."""


class ConnectionCut(HttpError):
    """The connection ended before the response did, or TLS failed."""


class DeadlineExceeded(HttpError):
    """The server took too long to accept a connection, to respond, or to make progress."""


class MalformedResponse(HttpError):
    """What the server sent is not a valid response, or exceeds a limit."""


class EarlyResponse(MalformedResponse):
    """The server reported success before it had the whole request."""


class ResponseTooLong(MalformedResponse):
    """The body of a response is longer than the caller accepts."""


def describe(error: BaseException | None) -> str:
    """Return a network error in one line."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")

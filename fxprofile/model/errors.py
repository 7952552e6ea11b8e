"""
The two families of error.

A driver (a folder of :mod:`fxprofile.drivers`) raises a
:class:`DriverError`; it knows nothing of HTTP and of other drivers, and no error
of an outside library passes it.  What a client of the API may be told is an
:class:`ApiError`; :mod:`fxprofile.web.errors` is the only place that makes one out
of the other.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

from fxprofile.model.avatars import REASONS


class DriverError(Exception):
    """
    Something outside of this process failed, and trying again may help.

    The text is for operators: it says what was tried and what came back.  It is
    logged and never shown to a client.
    """


class StorageError(DriverError):
    """A bucket could not be reached, or refused."""


class ObjectNotFound(StorageError):
    """There is no object under this key."""


class BodyMismatch(StorageError):
    """The body of a put was shorter or longer than announced; nothing was stored."""


class QueueError(DriverError):
    """A queue could not be reached, or refused."""


class LeaseLost(QueueError):
    """The receipt handle is no longer good: the message is visible again, or gone."""


class StoreError(DriverError):
    """The database could not be reached, or refused."""


class CacheError(DriverError):
    """The profile cache could not be reached, or refused."""


class IdentityError(DriverError):
    """An identity server failed; what it says of the token is unknown."""


class OAuthUnavailable(IdentityError):
    """The OAuth server, which verifies tokens, did not give a usable answer."""


class AuthUnavailable(IdentityError):
    """The auth server, which holds the accounts, did not give a usable answer."""


class CruncherUnavailable(DriverError):
    """There is no process that could crunch an image; the image is not at fault."""


class InvalidToken(Exception):
    """The OAuth server says that this token is not good."""


class AccountUnknown(Exception):
    """The auth server no longer knows the account of this token."""


class UpstreamRefused(Exception):
    """An identity server refused a request of ours in a way that is our own fault."""


class CrunchError(Exception):
    """
    An image could not be crunched.

    :ivar reason: one word of :data:`fxprofile.model.avatars.REASONS`, which the user sees.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class ImageRefused(CrunchError):
    """The image itself is at fault: another try ends the same way."""


class ChildFailed(CrunchError):
    """The child died, ran out of time or of memory: worth one more try."""


class MalformedMessage(ValueError):
    """A queue message is not of the form that :mod:`fxprofile.model.messages` gives."""


class ClientGone(Exception):
    """The client went away before its whole request had come."""


class ConfigError(Exception):
    """
    A setting is wrong.

    The text is one line that names the key.
    """


class ApiError(Exception):
    """
    What the API answers when a request cannot be served.

    :cvar code: the HTTP status.
    :cvar errno: the number that clients switch on; see ``docs/api.md``.
    :ivar message: one sentence for a person.
    :ivar details: further members of the JSON body.
    :ivar headers: further headers of the response.
    """

    code: ClassVar[int]
    errno: ClassVar[int]
    message: ClassVar[str]

    def __init__(
        self,
        message: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        **details: Any,
    ) -> None:
        self.text = message if message is not None else self.message
        super().__init__(self.text)
        self.details = details
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, object]:
        """The JSON body that describes the error to a client."""
        return {
            "code": self.code,
            "errno": self.errno,
            "error": HTTPStatus(self.code).phrase,
            "message": self.text,
            **self.details,
        }


class Unauthorized(ApiError):
    code, errno = 401, 100
    message = "The bearer token is missing, malformed or not valid."

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"}, **details)


class Forbidden(ApiError):
    code, errno = 403, 100
    message = "The token does not have the scope that this needs."


class BadRequest(ApiError):
    code, errno = 400, 101
    message = "The request is not valid."


class NotFound(ApiError):
    code, errno = 404, 101
    message = "There is nothing here."


class MethodNotAllowed(ApiError):
    code, errno = 405, 101
    message = "This method is not allowed here."


class RequestTimeout(ApiError):
    code, errno = 408, 101
    message = "The request body did not arrive in time."


class LengthRequired(ApiError):
    code, errno = 411, 101
    message = "A Content-Length header is needed."


class PayloadTooLarge(ApiError):
    code, errno = 413, 101
    message = "The request body is too large."


class UnsupportedMediaType(ApiError):
    code, errno = 415, 101
    message = "A body of this type is not accepted here."


class ExpectationFailed(ApiError):
    code, errno = 417, 101
    message = "The only expectation that is met is 100-continue."


class RequestBlocked(ApiError):
    code, errno = 400, 125
    message = "The request was blocked for security reasons."


class TooManyRequests(ApiError):
    code, errno = 429, 114
    message = "Too many requests; try again later."

    def __init__(self, message: str | None = None, *, retry_after: int, **details: Any) -> None:
        super().__init__(
            message,
            headers={"Retry-After": str(retry_after)},
            # For older clients, which look for it there.
            retryAfter=retry_after,
            **details,
        )


class UnprocessableImage(ApiError):
    code, errno = 422, 103
    message = "The image could not be processed."

    def __init__(self, reason: str) -> None:
        """
        :param reason: one word of :data:`fxprofile.model.avatars.REASONS`.
        """
        super().__init__(REASONS[reason], reason=reason)


class _Unavailable(ApiError):
    code = 503
    retry_after = 5

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message, headers={"Retry-After": str(self.retry_after)}, **details)


class OAuthServerUnavailable(_Unavailable):
    errno = 104
    message = "The OAuth server cannot be reached; try again later."


class AuthServerUnavailable(_Unavailable):
    errno = 105
    message = "The auth server cannot be reached; try again later."


class BackendUnavailable(_Unavailable):
    errno = 106
    message = "Storage, queue or database cannot be reached; try again later."


class InternalError(ApiError):
    code, errno = 500, 999
    message = "Something went wrong on our side."

"""
The two families of errors: those of drivers, and those of API responses.

A driver (a folder of :mod:`fxprofile.drivers`) raises a :class:`DriverError` and never an
error of an outside library; it knows nothing of HTTP or of other drivers.  An error
response to a client is an :class:`ApiError`; only :mod:`fxprofile.web.errors` translates one
to the other.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from fxprofile.deferreds.errors import ExpectedError
from fxprofile.model.avatars import QUARANTINED, REASONS


class DriverError(ExpectedError):
    """
    A dependency failed; a retry may succeed.

    The text is for operators: the operation and the response.  It is logged and never sent
    to a client.
    """


class StorageError(DriverError):
    """A bucket is unreachable or refused the request."""


class ObjectNotFound(StorageError):
    """No object has this key."""


class BodyMismatch(StorageError):
    """The body of a put had not the length that was announced; nothing was stored."""


class QueueError(DriverError):
    """A queue is unreachable or refused the request."""


class LeaseLost(QueueError):
    """The receipt handle has expired: the message is visible again, or was deleted."""


class StoreError(DriverError):
    """The database is unreachable or refused the request."""


class CacheError(DriverError):
    """The profile cache is unreachable or refused the request."""


class IdentityError(DriverError):
    """An identity server failed, so the validity of the token is unknown."""


class OAuthUnavailable(IdentityError):
    """The OAuth server, which verifies tokens, sent no valid response."""


class AuthUnavailable(IdentityError):
    """The auth server, which has the accounts, sent no valid response."""


class CruncherUnavailable(DriverError):
    """This process cannot crunch images now; no image is at fault."""


class InvalidToken(Exception):
    """The OAuth server rejected the token."""


class AccountUnknown(ExpectedError):
    """The auth server has no account for this token, or the account was deleted here."""


class UpstreamRefused(IdentityError):
    """The auth server refused the request of this service with an unexpected 4xx."""


class UpstreamThrottled(IdentityError):
    """
    An identity server allows no more requests for now.

    :ivar retry_after: seconds until the next request is allowed.
    """

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class CrunchError(Exception):
    """
    An image could not be crunched.

    :ivar reason: a key of :data:`fxprofile.model.avatars.REASONS`, for the user.
    :ivar detail: for operators.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class ImageRefused(CrunchError):
    """The image is at fault: a retry would fail in the same way."""


class Quarantined(ImageRefused):
    """An operator has quarantined this picture, by its bytes or its pixels."""

    def __init__(self) -> None:
        super().__init__(QUARANTINED)


class ChildFailed(CrunchError):
    """The child process died, timed out or ran out of memory: one retry may succeed."""


class MalformedMessage(ValueError):
    """A queue message has not the form defined in :mod:`fxprofile.model.messages`."""


class ClientGone(Exception):
    """The client disconnected before the end of its request."""


class ConfigError(Exception):
    """
    A setting is invalid.

    The text is one line that names the key.
    """


class ApiError(Exception):
    """
    An error response of the API.

    :cvar code: the HTTP status.
    :cvar errno: the number by which clients tell errors apart; see ``docs/api.md``.
    :cvar message: one sentence for the user, unless another one is given.
    :cvar default_headers: headers of every response of this kind.
    :ivar details: further members of the JSON body.
    :ivar headers: further headers of the response.
    """

    code: ClassVar[int]
    errno: ClassVar[int]
    message: ClassVar[str]
    default_headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        message: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        **details: object,
    ) -> None:
        self.text = message if message is not None else self.message
        super().__init__(self.text)
        self.details = details
        self.headers = {**self.default_headers, **(headers or {})}

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
    """The bearer token is missing or was rejected."""

    code, errno = 401, 100
    message = "The bearer token is missing, malformed or not valid."
    default_headers: ClassVar = {"WWW-Authenticate": "Bearer"}


class Forbidden(ApiError):
    """The token has too little scope."""

    code, errno = 403, 100
    message = "The token does not have the scope that this needs."
    default_headers: ClassVar = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}


class BadRequest(ApiError):
    """The request is invalid."""

    code, errno = 400, 101
    message = "The request is not valid."


class NotFound(ApiError):
    """No such resource."""

    code, errno = 404, 101
    message = "There is nothing here."


class MethodNotAllowed(ApiError):
    """The resource has no such method."""

    code, errno = 405, 101
    message = "This method is not allowed here."


class TargetTooLong(ApiError):
    """The request target is longer than any that exists."""

    code, errno = 414, 101
    message = "The URL is too long."


class RequestTimeout(ApiError):
    """The client sends its body too slowly."""

    code, errno = 408, 101
    message = "The request body did not arrive in time."


class LengthRequired(ApiError):
    """The request has no Content-Length."""

    code, errno = 411, 101
    message = "A Content-Length header is needed."


class PayloadTooLarge(ApiError):
    """The body exceeds ``uploads.max_bytes``, or the limit of its operation."""

    code, errno = 413, 101
    message = "The request body is too large."


class UnsupportedMediaType(ApiError):
    """The Content-Type or Content-Encoding is not accepted."""

    code, errno = 415, 101
    message = "A body of this type is not accepted here."


class ExpectationFailed(ApiError):
    """The Expect header is not ``100-continue``."""

    code, errno = 417, 101
    message = "The only expectation that is met is 100-continue."


class AuthServerRefused(ApiError):
    """The auth server refused a request that was made for this one."""

    code, errno = 400, 107
    message = "The auth server refused the request."


class RequestBlocked(ApiError):
    """The customs server blocked the request."""

    code, errno = 400, 125
    message = "The request was blocked for security reasons."


class TooManyRequests(ApiError):
    """
    A rate limit was exceeded.

    :param retry_after: seconds until the next request is allowed.
    """

    code, errno = 429, 114
    message = "Too many requests; try again later."

    def __init__(self, *, retry_after: int) -> None:
        # Older clients read it from the body.
        super().__init__(headers={"Retry-After": str(retry_after)}, retryAfter=retry_after)


class UnprocessableImage(ApiError):
    """The upload is not an acceptable image."""

    code, errno = 422, 103
    message = "The image could not be processed."

    def __init__(self, reason: str, name: str = "") -> None:
        """
        :param reason: one word of :data:`fxprofile.model.avatars.REASONS`.
        :param name: of an image type that is not supported, if it is a well-known one.
        """
        named = f"{name} images are not accepted; send a JPEG, PNG, GIF, WebP or AVIF image."
        super().__init__(named if name else REASONS[reason], reason=reason)


class _Unavailable(ApiError):
    # A dependency is unreachable; the client should retry.

    code = 503
    default_headers: ClassVar = {"Retry-After": "5"}


class OAuthServerUnavailable(_Unavailable):
    """The OAuth server is unreachable."""

    errno = 104
    message = "The OAuth server cannot be reached; try again later."


class AuthServerUnavailable(_Unavailable):
    """The auth server is unreachable."""

    errno = 105
    message = "The auth server cannot be reached; try again later."


class BackendUnavailable(_Unavailable):
    """Storage, a queue or the database is unreachable, or has too much to do."""

    errno = 106
    message = "Storage, queue or database cannot be reached; try again later."


class InternalError(ApiError):
    """A bug of this service."""

    code, errno = 500, 999
    message = "Something went wrong on our side."

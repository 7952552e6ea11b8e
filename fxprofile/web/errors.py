"""The translation of errors into API responses: the only place that maps an error to a status."""

from __future__ import annotations

from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.routing import RequestRedirect

from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import (
    AccountUnknown,
    ApiError,
    AuthServerUnavailable,
    AuthUnavailable,
    BackendUnavailable,
    BadRequest,
    ClientGone,
    CrunchError,
    DriverError,
    InternalError,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    OAuthUnavailable,
    Unauthorized,
    UnprocessableImage,
)


def translate(error: BaseException) -> ApiError:
    """Return the error that a client gets; it contains nothing of the original's text."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NoSuchMethod):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return MethodNotAllowed(headers={"Allow": allowed})
    if isinstance(error, (NoSuchPath, RequestRedirect)):
        return NotFound()
    for kind, translation in _TRANSLATIONS:
        if isinstance(error, kind):
            return translation()
    if isinstance(error, CrunchError):
        return unprocessable(error.reason)
    return InternalError()


def unprocessable(reason: str) -> UnprocessableImage:
    """
    Return the error for an image that could not be processed.

    :param reason: one word of :data:`fxprofile.model.avatars.REASONS`.
    """
    return UnprocessableImage(REASONS[reason], reason=reason)


_TRANSLATIONS: tuple[tuple[type[BaseException], type[ApiError]], ...] = (
    (InvalidToken, Unauthorized),
    (AccountUnknown, Unauthorized),
    (OAuthUnavailable, OAuthServerUnavailable),
    (AuthUnavailable, AuthServerUnavailable),
    (DriverError, BackendUnavailable),
    (ClientGone, BadRequest),
    (HTTPException, BadRequest),
)

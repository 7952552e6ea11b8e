"""The translation of errors into API responses: the only place that maps an error to a status."""

from __future__ import annotations

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect

from fxprofile.model import errors


def translate(error: BaseException) -> errors.ApiError:
    """Return the error that a client gets; it contains nothing of the original's text."""
    if isinstance(error, errors.ApiError):
        return error
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return errors.MethodNotAllowed(headers={"Allow": allowed})
    if isinstance(error, (NotFound, RequestRedirect)):
        return errors.NotFound()
    if isinstance(error, errors.UpstreamThrottled):
        return errors.TooManyRequests(retry_after=error.retry_after)
    for kind, translation in _TRANSLATIONS:
        if isinstance(error, kind):
            return translation()
    if isinstance(error, errors.CrunchError):
        is_unsupported = error.reason == "unsupported"
        return errors.UnprocessableImage(error.reason, error.detail if is_unsupported else "")
    return errors.InternalError()


_TRANSLATIONS: tuple[tuple[type[BaseException], type[errors.ApiError]], ...] = (
    (errors.InvalidToken, errors.Unauthorized),
    (errors.AccountUnknown, errors.Unauthorized),
    (errors.UpstreamRefused, errors.AuthServerRefused),
    (errors.OAuthUnavailable, errors.OAuthServerUnavailable),
    (errors.AuthUnavailable, errors.AuthServerUnavailable),
    (errors.DriverError, errors.BackendUnavailable),
    (errors.ClientGone, errors.BadRequest),
    (HTTPException, errors.BadRequest),
)

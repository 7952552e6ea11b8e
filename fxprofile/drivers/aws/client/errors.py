"""
Errors of AWS calls.
"""

from __future__ import annotations

from fxprofile.deferreds.errors import ExpectedError


class AwsError(ExpectedError):
    """
    An AWS call failed.

    The text names the call, the outcome and the request ids that AWS support asks for.  It
    never holds a secret.

    :ivar code: AWS's error code, or that of the class if there was no error response.
    :ivar status: the HTTP status of the response; None if there was none.
    """

    code = "Failed"

    def __init__(self, text: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code or self.code
        self.status = status


class AwsRefused(AwsError):
    """AWS answered with an error response."""


class AwsUnreachable(AwsError):
    """No response arrived, or only a part of one."""

    code = "Unreachable"


class AwsTimeout(AwsUnreachable):
    """The server made no progress for too long."""

    code = "Timeout"


class AwsMalformed(AwsError):
    """The response is not a valid response of the service."""

    code = "Malformed"


class NoCredentials(AwsError):
    """The credential chain found no access key, or could not refresh an expired one."""

    code = "NoCredentials"


class PayloadLengthError(AwsError):
    """A streamed payload was shorter or longer than announced."""

    code = "IncompleteBody"

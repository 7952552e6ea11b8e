"""
How a call of an AWS service fails.

The drivers that use :mod:`fxprofile.drivers.aws` turn these errors into their own.
"""

from __future__ import annotations


class AwsError(Exception):
    """
    A call failed.

    The text says which call, what came back, and the ids by which AWS finds the
    request.  It never holds a secret.

    :ivar code: AWS's word for the error, or one of ours if there was no answer.
    :ivar status: of the answer, None if there was none.
    """

    def __init__(self, text: str, *, code: str, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


class AwsRefused(AwsError):
    """AWS answered with an error."""


class AwsUnreachable(AwsError):
    """No answer came, or not the whole of it."""


class AwsMalformed(AwsError):
    """What came is not an answer of this service."""


class NoCredentials(AwsError):
    """The credential chain found nothing, or could not refresh what it had found."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="NoCredentials")

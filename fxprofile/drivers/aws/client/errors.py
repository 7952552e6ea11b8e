"""
Errors of AWS calls.
"""

from __future__ import annotations


class AwsError(Exception):
    """
    An AWS call failed.

    The text names the call, the outcome and the request ids that AWS support asks for.  It
    never holds a secret.

    :ivar code: AWS's error code, or one of this client's if there was no response.
    :ivar status: the HTTP status of the response; None if there was none.
    """

    def __init__(self, text: str, *, code: str, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


class AwsRefused(AwsError):
    """AWS answered with an error response."""


class AwsUnreachable(AwsError):
    """
    No response arrived, or only a part of one.

    :ivar timed_out: whether the server was silent for too long.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str = "Unreachable",
        status: int | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(text, code=code, status=status)
        self.timed_out = timed_out


class AwsMalformed(AwsError):
    """The response is not a valid response of the service."""


class NoCredentials(AwsError):
    """The credential chain found no access key, or could not refresh an expired one."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="NoCredentials")


class PayloadLengthError(AwsError):
    """A streamed payload was shorter or longer than announced."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="IncompleteBody")

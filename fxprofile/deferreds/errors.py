"""Errors that are expected."""

from __future__ import annotations


class ExpectedError(Exception):
    """
    A failure of another system, such as an unreachable server, that is no fault of this process.

    Background work logs it in one line and without a traceback, because an outage causes many.
    """

"""
A database without threads, for tests that run many transactions one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, StaticPool, create_engine
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from fxprofile.deferreds.notifier import Notifier
from fxprofile.drivers.sql.schema import metadata

T = TypeVar("T")


class InlineDatabase:
    """
    SQLite in memory; each transaction is over when :meth:`run` returns.

    It stands in for :class:`fxprofile.drivers.sql.engine.Database`.
    """

    def __init__(self) -> None:
        self.notifier = Notifier()
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        metadata.create_all(self.engine)

    async def run(
        self, work: Callable[[Connection], T], *, read_only: bool = False, **options: object
    ) -> T:
        with self.engine.begin() as connection:
            return work(connection)


def result_of(coroutine: Any) -> Any:
    """What a coroutine that waits for nothing returns or raises."""
    outcomes: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(outcomes.append)
    (outcome,) = outcomes
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return outcome

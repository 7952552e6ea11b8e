"""
Tests that the work of an upload does not grow with the database.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.drivers.sql.growth import GRAIN, CountingDatabase, OneUpload, fill
from tests.drivers.sql.inline import result_of


def work(*, users: int, backlog: int) -> dict[str, int]:
    """Return the instructions of each transaction of an upload."""
    database = CountingDatabase()
    with database.engine.begin() as connection:
        fill(connection, users=users, backlog=backlog)
    steps = {}
    for name, call in OneUpload(database, user=7).transactions().items():
        before = database.steps
        result_of(call())
        steps[name] = database.steps - before
    return steps


class GrowthTests(SynchronousTestCase):
    """Each transaction of an upload, in a small and in a large database."""

    def test_work_does_not_grow_with_users_and_backlog(self) -> None:
        """No transaction of an upload takes more work if there are fifty times as many rows."""
        small, large = work(users=100, backlog=100), work(users=5000, backlog=5000)
        spread = 4 * GRAIN
        grown = {n: (steps, large[n]) for n, steps in small.items() if large[n] > steps + spread}
        self.assertEqual(grown, {})

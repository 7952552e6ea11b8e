"""
A process that adds to a number in a database, for tests.

``python -m tests.drivers.sql.writer URL TIMES``: each time in a transaction that first reads
what it then changes.
"""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Connection, select, update
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.schema import profiles
from fxprofile.drivers.sql.store import insert_if_absent


def add_one(connection: Connection) -> None:
    insert_if_absent(connection, profiles, {"uid": "count", "selected_seq": 0, "changed_at": 0.0})
    query = select(profiles.c.selected_seq).where(profiles.c.uid == "count")
    number = connection.execute(query.with_for_update()).scalar_one()
    connection.execute(
        update(profiles).where(profiles.c.uid == "count").values(selected_seq=number + 1)
    )


async def write(reactor: Any, url: str, times: str) -> None:
    database = Database(reactor, url, migrate=False)
    database.startService()
    try:
        for _ in range(int(times) // 5):
            await gatherResults(
                [Deferred.fromCoroutine(database.run(add_one)) for _ in range(5)],
                consumeErrors=True,
            )
    finally:
        await database.stopService()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(write(reactor, *sys.argv[1:])))

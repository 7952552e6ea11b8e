"""
A process that consumes a queue in a database, for tests: it prints what it receives.

``python -m tests.drivers.consumer URL QUEUE hold`` receives and then waits for its end;
with ``drain`` it deletes what it receives and ends when nothing comes any more.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.queue import DatabaseQueue


async def consume(reactor: Any, url: str, name: str, mode: str) -> None:
    database = Database(reactor, url, migrate=False)
    database.startService()
    try:
        await database.ready()
        print("ready", flush=True)
        sys.stdin.readline()
        queue = DatabaseQueue(database, name, 60, 5, reactor)
        while messages := await queue.receive(max_messages=3, wait=1):
            for message in messages:
                print(message.body, flush=True)
                if mode == "drain":
                    await queue.delete(message=message)
            if mode == "hold":
                await Deferred()
    finally:
        await database.stopService()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(consume(reactor, *sys.argv[1:])))

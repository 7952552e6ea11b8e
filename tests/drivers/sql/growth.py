"""
A large database, and how much work one upload is in it, in instructions of SQLite's virtual
machine (https://www.sqlite.org/opcode.html): unlike time, they are the same in each run.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, text
from twisted.internet.task import Clock

from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.drivers.sql.store import SqlProfileStore
from fxprofile.model.avatars import Status, Variant
from fxprofile.model.messages import Message
from tests.drivers.sql.inline import InlineDatabase

T = TypeVar("T")

#: Instructions between two calls of the counter.
GRAIN = 5

#: Numbers from 1 on; the rows of users, of their avatars, of uploads that wait, and of their jobs.
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number) "
_USERS = (
    "INSERT INTO profiles (uid, display_name, avatar_id, selected_seq, changed_at) "
    f"{_NUMBERS} SELECT printf('%032x', i), 'User ' || i, printf('%032x', i), i, :now - 1e6 FROM n",
    "INSERT INTO avatars (id, uid, status, job_sent, created, updated) "
    f"{_NUMBERS} SELECT printf('%032x', i), printf('%032x', i), 'ready', :now - 1e6, :now - 1e6, "
    ":now - 1e6 FROM n",
)
_BACKLOG = (
    "INSERT INTO avatars (id, uid, status, job_sent, owed_since, created, updated) "
    f"{_NUMBERS} SELECT printf('f%031x', i), printf('f%031x', i), 'processing', "
    ":now - 60, :now - 60, :now - 60, :now - 60 FROM n",
    "INSERT INTO queue_messages (queue, body, sent, visible_at, hidden_at, receive_count) "
    f"{_NUMBERS} SELECT 'jobs', '{{}}', :now - 60, :now - 60, :now - 60, 0 FROM n",
)


def fill(connection: Connection, *, users: int, backlog: int) -> None:
    """Add users with an avatar, and uploads of other users that wait, with their jobs."""
    for statements, number in ((_USERS, users), (_BACKLOG, backlog)):
        for statement in statements if number else ():
            connection.execute(text(statement), {"number": number, "now": time.time()})


class CountingDatabase(InlineDatabase):
    """
    A database that counts.

    :ivar counts: whether it counts now.
    :ivar steps: the instructions of all transactions so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = True
        self.steps = 0

    async def run(self, work: Callable[[Connection], T], **options: Any) -> T:
        def count() -> int:
            self.steps += GRAIN
            return 0

        def counted(connection: Connection) -> T:
            sqlite: Any = connection.connection.driver_connection
            sqlite.set_progress_handler(count if self.counts else None, GRAIN)
            try:
                return work(connection)
            finally:
                sqlite.set_progress_handler(None, 0)

        return await super().run(counted, **options)


class OneUpload:
    """
    Every transaction of one upload that replaces an avatar, of a read, and of the repair loops.

    :param database: is not empty.
    :param user: the number of a user.
    """

    def __init__(self, database: Any, user: int) -> None:
        self.database = database
        self.uid = f"{user:032x}"
        self.avatar_id = f"a{user:031x}"
        self.store = SqlProfileStore(database)
        self._taken: list[Message] = []

    def _queue(self, name: str) -> DatabaseQueue:
        return DatabaseQueue(self.database, name, 60, 5, Clock())

    async def _received(self, name: str) -> None:
        # Also what a receive does only from time to time.
        clock = Clock()
        clock.advance(1e6)
        queue = DatabaseQueue(self.database, name, 60, 5, clock)
        self._taken = list(await queue.receive(max_messages=1, wait=0))

    def transactions(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return them in their order, each to be called once."""
        store, uid, now = self.store, self.uid, time.time()
        this: dict[str, Any] = {"avatar_id": self.avatar_id}
        jobs, results = self._queue("jobs"), self._queue("results")
        ready = {**this, "variants": {"default": Variant(1, 1, 1)}, "now": now}
        return {
            "profile": lambda: store.profile(uid=uid),
            "current avatar": lambda: store.current_avatar(uid=uid),
            "backlog": lambda: store.backlog(limit=20, skip=9),
            "pending of the user": lambda: store.pending_of(uid=uid),
            "accept": lambda: store.accept(**this, uid=uid, now=now, keep=3),
            "send a job": lambda: jobs.send(body="{}"),
            "record the job": lambda: store.job_sent(**this, status=Status.PROCESSING, now=now),
            "receive a job": lambda: self._received("jobs"),
            "extend a lease": lambda: jobs.extend(message=self._taken[0], visibility=60),
            "send a result": lambda: results.send(body="{}"),
            "delete a job": lambda: jobs.delete(message=self._taken[0]),
            "receive a result": lambda: self._received("results"),
            "apply a result": lambda: store.ready(**ready),
            "replaced and deleted": lambda: store.deleted(avatar_id=uid, now=now),
            "set a name": lambda: store.set_display_name(uid=uid, name="Another", now=now),
            "lease of the repair loops": lambda: store.leadership(owner="x", now=now, seconds=40),
            "jobs that were not sent": lambda: store.unsent(before=now - 5, limit=100),
            "jobs without a result": lambda: store.stuck(sent_before=now - 600, limit=100),
            "uploads of yesterday": lambda: store.expire(
                processing_before=now - 86400, now=now, limit=100
            ),
            "old rows": lambda: store.purge(
                failed_before=now - 14 * 86400,
                replaced_before=now - 86400,
                removed_before=now - 86400,
                now=now,
                limit=100,
            ),
            "delete the avatars": lambda: store.delete_user(uid=uid, now=now),
        }

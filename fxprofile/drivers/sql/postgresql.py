"""
A connection to PostgreSQL that times out when the server does not respond.

``statement_timeout`` makes the server end a slow statement, and TCP detects a host that
is gone; neither detects a server process that is stopped or swapped out.  psycopg has no
such time limit for its blocking connections.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

#: Seconds more than the server's own limit, which should be reached first.
_MARGIN = 1


class TimeoutConnection(psycopg.Connection[TupleRow]):
    """
    Closes itself when a response takes too long.

    :ivar seconds: how long a response may take.
    """

    seconds: float = 60.0

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """
        Wait for the server, as psycopg does.

        :raises psycopg.OperationalError: if there is no response in time.
        """
        return super().wait(self._with_timeout(gen), *args, **kwargs)

    def _with_timeout(self, gen: PQGen[RV]) -> PQGen[RV]:
        # psycopg sends the events that are ready, and READY_NONE after each interval.
        deadline = monotonic() + self.seconds + _MARGIN
        try:
            waiting_for = next(gen)
            while True:
                ready = yield waiting_for
                if not ready and monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server does not respond")
                waiting_for = gen.send(ready)
        except StopIteration as stop:
            value: RV = stop.value
            return value

"""
A connection to PostgreSQL that gives up on a silent server.

PostgreSQL ends a statement that takes too long itself (``statement_timeout``), and TCP
notices a host that is gone.  A server that is there and says nothing, stopped or
swapped out, is what neither of them sees.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any

import psycopg


class PatientConnection(psycopg.Connection[Any]):
    """
    Waits for an answer for a while and then closes itself.

    :ivar patience: seconds.  The server's own limit should come first, so this gets a
        second more.
    """

    patience: float = 60.0

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **keywords: Any) -> Any:
        """
        What psycopg does to wait for the server.

        :raises psycopg.OperationalError: if there was no answer in time.
        """
        return super().wait(self._with_patience(gen), *args, **keywords)

    def _with_patience(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        # psycopg sends what became ready, and every tenth of a second or so a 0.
        deadline = monotonic() + self.patience + 1
        ready: Any = None
        try:
            while True:
                ready = yield gen.send(ready)
                if not ready and monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server does not answer")
        except StopIteration as stop:
            return stop.value

"""The statements that an embedded database executes, whether through SQLAlchemy or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy import Engine, event


def trace(engine: Engine, note: Callable[[str], None]) -> None:
    """
    Pass each statement to a function, with the values of its parameters in its text.

    Those of a connection that is in use already are left out.
    """

    @event.listens_for(engine, "checkout")
    def checked_out(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_trace_callback(note)

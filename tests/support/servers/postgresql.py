"""
A PostgreSQL server for tests.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psycopg

from tests.support.servers.local import PASSWORD
from tests.support.servers.sql import USER, SqlServer, unprivileged


def binary(name: str) -> str | None:
    """Return the path of a program of PostgreSQL; Debian leaves some of them off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def missing() -> str | None:
    """Return the reason why no server can run on this machine, or None."""
    for name in ("initdb", "postgres"):
        if binary(name) is None:
            return f"{name} is not installed"
    return None


@cache
def shared() -> PostgresqlServer:
    """Return the server of this test run; the first call starts it."""
    server = PostgresqlServer()
    server.start()
    return server


class PostgresqlServer(SqlServer):
    """Its files survive a kill but no power cut: it does not wait for the disk."""

    # SIGTERM would wait for the clients to go.
    quit_signal = signal.SIGINT

    def __init__(self) -> None:
        # The server refuses to run as root.
        super().__init__("postgresql", unprivileged("postgres", "nobody"))
        password = self.directory / "password"
        password.write_text(PASSWORD)
        self.run(
            binary("initdb") or "initdb",
            f"--pgdata={self.directory / 'data'}",
            f"--username={USER}",
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": "50",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return (binary("postgres") or "postgres", "-D", str(self.directory / "data"), *options)

    def answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def create(self, name: str, encoding: str = "UTF8") -> None:
        with self._connect() as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'".encode()
            )
        connection.close()

    def set_read_only(self, name: str, read_only: bool) -> None:
        """Whether new sessions of a database may only read."""
        setting = "on" if read_only else "off"
        with self._connect() as connection:
            connection.execute(
                f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}".encode()
            )
        connection.close()

    def set_standby(self, standby: bool) -> None:
        """Whether the server is a standby, which only reads, from its next start on."""
        signal_file = self.directory / "data" / "standby.signal"
        if standby:
            signal_file.touch()
        else:
            signal_file.unlink(missing_ok=True)

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

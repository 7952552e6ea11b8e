"""
A MariaDB or MySQL server for tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache

import pymysql

from tests.support.servers.local import PASSWORD
from tests.support.servers.sql import USER, SqlServer, unprivileged


def missing() -> str | None:
    """Return the reason why no server can run on this machine, or None."""
    for name in ("mariadbd", "mariadb-install-db"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    return None


@cache
def shared() -> MariadbServer:
    """Return the server of this test run; the first call starts it."""
    server = MariadbServer()
    server.start()
    return server


class MariadbServer(SqlServer):
    """Its files survive a kill but no power cut: it does not wait for the disk."""

    def __init__(self) -> None:
        super().__init__("mariadb", unprivileged("mysql", "nobody"))
        self._socket = str(self.directory / "socket")
        self.run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=8M",
        )

    def command(self) -> Sequence[str]:
        return (
            shutil.which("mariadbd") or "mariadbd",
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            f"--socket={self._socket}",
            f"--pid-file={self.directory / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-doublewrite=0",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--max-connections=50",
        )

    def answers(self) -> bool:
        try:
            self._as_root("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def create(self, name: str) -> None:
        self._as_root(
            f"CREATE DATABASE {name} CHARACTER SET latin1",
            f"CREATE USER IF NOT EXISTS {USER} IDENTIFIED BY '{PASSWORD}'",
            f"GRANT ALL ON {name}.* TO {USER}",
        )

    def set_read_only(self, read_only: bool) -> None:
        """Whether only the administrator may write."""
        self._as_root(f"SET GLOBAL read_only = {int(read_only)}")

    def url(self, database: str, password: str = PASSWORD) -> str:
        # The server has no certificate, and to get ready for one takes longer than the rest.
        query = "ssl_disabled=1"
        return f"mysql+pymysql://{USER}:{password}@127.0.0.1:{self.port}/{database}?{query}"

    def _as_root(self, *statements: str) -> None:
        connection = pymysql.connect(user="root", unix_socket=self._socket, connect_timeout=5)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

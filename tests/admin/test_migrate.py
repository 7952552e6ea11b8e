"""``fxprofile-admin migrate``."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from fxprofile.drivers.sql.migrate import current, upgrade
from fxprofile.drivers.sql.schema import REVISION
from tests.admin.support import AdminCase
from tests.support.servers import mariadb, postgresql
from tests.support.servers.local import PASSWORD, free_port


class MigrateTests(AdminCase):
    """On an embedded database."""

    @property
    def url(self) -> str:
        """The database of the test."""
        return f"sqlite:///{self.directory}/var/profile.db"

    async def test_create(self) -> None:
        """A database that is not there is made; it says so once, and then that all is well."""
        ran = await self.admin("migrate")
        self.assertIn(f"profile.db was missing and is now {REVISION}", ran.output)
        self.assertEqual(current(self.url), REVISION)
        self.assertIn("up to date", (await self.admin("migrate")).output)

    async def test_check(self) -> None:
        """A check makes nothing, and its status tells whether there is need to."""
        ran = await self.admin("migrate", "--check", "--json", status=1)
        self.assertEqual(ran.json["from"], None)
        self.assertFalse(ran.json["current"])
        self.assertFalse((self.directory / "var").exists())
        await self.admin("migrate")
        ran = await self.admin("migrate", "--check", "--json")
        self.assertEqual(
            ran.json,
            {
                "database": f"{self.directory}/var/profile.db",
                "from": REVISION,
                "to": REVISION,
                "changed": False,
                "current": True,
            },
        )

    async def test_upgrade(self) -> None:
        """A database of an older version is upgraded, and it says from what to what."""
        (self.directory / "var").mkdir()
        await deferToThread(upgrade, self.url, "0001")
        ran = await self.admin("migrate", "--json")
        self.assertEqual((ran.json["from"], ran.json["to"]), ("0001", REVISION))
        self.assertTrue(ran.json["changed"])

    async def test_others_need_it(self) -> None:
        """Other commands neither make nor upgrade a database, and say what does."""
        line = await self.error("queues")
        self.assertIn(f"{self.directory}/var/profile.db is not there", line)
        self.assertIn("fxprofile-admin migrate", line)
        self.assertFalse((self.directory / "var").exists())
        (self.directory / "var").mkdir()
        await deferToThread(upgrade, self.url, "0001")
        line = await self.error("user", "show", "abc")
        self.assertIn("is 0001, and this version needs", line)
        self.assertEqual(current(self.url), "0001")

    async def test_two_at_once(self) -> None:
        """Any number of them may run at the same time, and one does it."""
        runs = await gatherResults(
            [ensureDeferred(self.admin("migrate", "--json")) for _ in range(3)]
        )
        self.assertEqual(sorted(ran.json["changed"] for ran in runs), [False, False, True])

    async def test_impossible(self) -> None:
        """What cannot be made is one line that says where."""
        (self.directory / "var").write_text("not a directory")
        self.assertIn("database.url", await self.error("migrate"))

    async def test_wrong_url(self) -> None:
        """A URL of some other database is a wrong setting."""
        line = await self.error("migrate", "--set=database.url=sqlite:///:memory:", status=2)
        self.assertIn("database.url", line)

    async def test_dead_server(self) -> None:
        """A server that is not there is one line without the password."""
        for scheme in ("mysql+pymysql", "postgresql+psycopg"):
            url = f"{scheme}://u:{PASSWORD}@127.0.0.1:{free_port()}/d"
            line = await self.error("migrate", f"--set=database.url={url}")
            self.assertIn("database.url", line)
            self.assertNotIn(PASSWORD, line)

    async def test_silent_server(self) -> None:
        """Nobody waits for ever for a server that takes connections and says nothing."""
        silent: Any = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        place = f"u:{PASSWORD}@127.0.0.1:{silent.getHost().port}/d"
        lines = await gatherResults(
            [
                ensureDeferred(self.error("migrate", f"--set=database.url={scheme}://{place}"))
                for scheme in ("mysql+pymysql", "postgresql+psycopg")
            ]
        )
        for line in lines:
            self.assertIn("database.url", line)
            self.assertNotIn(PASSWORD, line)


class MariadbMigrateTests(AdminCase):
    """On MariaDB."""

    skip = mariadb.missing()
    server = mariadb

    async def test_create(self) -> None:
        """The schema is made in an empty database; the password is not shown."""
        url = self.server.shared().new_database()
        setting = f"--set=database.url={url}"
        ran = await self.admin("migrate", setting)
        self.assertIn(f"was missing and is now {REVISION}", ran.output)
        self.assertNotIn(PASSWORD, ran.output)
        ran = await self.admin("queues", setting, "--json")
        self.assertEqual({q["waiting"] for q in ran.json["queues"]}, {0})


class PostgresqlMigrateTests(MariadbMigrateTests):
    """On PostgreSQL."""

    skip = postgresql.missing()
    server = postgresql

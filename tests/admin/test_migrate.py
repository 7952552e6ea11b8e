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
    """``migrate`` on an embedded database."""

    @property
    def url(self) -> str:
        """The URL of the database."""
        return f"sqlite:///{self.directory}/var/profile.db"

    async def test_a_missing_database_is_created_once(self) -> None:
        """A missing database is created; a second run reports that it is up to date."""
        ran = await self.admin("migrate")
        self.assertIn(f"profile.db was missing and is now {REVISION}", ran.output)
        self.assertEqual(current(self.url), REVISION)
        self.assertIn("up to date", (await self.admin("migrate")).output)

    async def test_a_check_creates_nothing_and_has_a_status(self) -> None:
        """--check creates nothing, and its status is 1 if a change is due."""
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

    async def test_an_old_schema_is_upgraded(self) -> None:
        """A database with an older schema is upgraded, and the JSON holds both revisions."""
        (self.directory / "var").mkdir()
        await deferToThread(upgrade, self.url, "0001")
        ran = await self.admin("migrate", "--json")
        self.assertEqual((ran.json["from"], ran.json["to"]), ("0001", REVISION))
        self.assertTrue(ran.json["changed"])

    async def test_other_commands_do_not_migrate(self) -> None:
        """Other commands neither create nor upgrade a database; their error names migrate."""
        line = await self.error("queues")
        self.assertIn(f"{self.directory}/var/profile.db does not exist", line)
        self.assertIn("fxprofile-admin migrate", line)
        self.assertFalse((self.directory / "var").exists())
        (self.directory / "var").mkdir()
        await deferToThread(upgrade, self.url, "0001")
        line = await self.error("user", "show", "abc")
        self.assertIn("is 0001, but this version needs", line)
        self.assertEqual(current(self.url), "0001")

    async def test_concurrent_migrations_change_the_schema_once(self) -> None:
        """Of several migrations at the same time, one changes the schema."""
        runs = await gatherResults(
            [ensureDeferred(self.admin("migrate", "--json")) for _ in range(3)]
        )
        self.assertEqual(sorted(ran.json["changed"] for ran in runs), [False, False, True])

    async def test_a_database_that_cannot_be_created_is_one_line(self) -> None:
        """If the database cannot be created, the error names database.url."""
        (self.directory / "var").write_text("not a directory")
        self.assertIn("database.url", await self.error("migrate"))

    async def test_an_unusable_url_is_a_wrong_setting(self) -> None:
        """A URL of an unsupported database is a wrong setting."""
        line = await self.error("migrate", "--set=database.url=sqlite:///:memory:", status=2)
        self.assertIn("database.url", line)

    async def test_an_unreachable_server_is_one_line_without_the_password(self) -> None:
        """An unreachable server is one line without the password."""
        for scheme in ("mysql+pymysql", "postgresql+psycopg"):
            url = f"{scheme}://u:{PASSWORD}@127.0.0.1:{free_port()}/d"
            line = await self.error("migrate", f"--set=database.url={url}")
            self.assertIn("database.url", line)
            self.assertNotIn(PASSWORD, line)

    async def test_a_server_that_says_nothing_times_out(self) -> None:
        """A server that accepts connections and never answers is an error after a timeout."""
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
    """``migrate`` on MariaDB."""

    skip = mariadb.missing()
    server = mariadb

    async def test_the_schema_is_created_on_a_server(self) -> None:
        """The schema is created in an empty database, and the password is not printed."""
        url = self.server.shared().new_database()
        setting = f"--set=database.url={url}"
        ran = await self.admin("migrate", setting)
        self.assertIn(f"was missing and is now {REVISION}", ran.output)
        self.assertNotIn(PASSWORD, ran.output)
        ran = await self.admin("queues", setting, "--json")
        self.assertEqual({q["waiting"] for q in ran.json["queues"]}, {0})


class PostgresqlMigrateTests(MariadbMigrateTests):
    """``migrate`` on PostgreSQL."""

    skip = postgresql.missing()
    server = postgresql

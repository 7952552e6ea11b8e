"""Tests of ``docs/how-to/upgrade.md`` and ``backup.md`` beside it, with the commands they give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fxprofile.drivers.sql.schema import REVISION
from tests.admin.support import command, environment, nursery
from tests.corpus.jpeg import plain
from tests.drivers.sql.test_upgrade import EXPANSION, NEXT
from tests.integration.client import Client
from tests.support.daemon import Daemon
from tests.support.servers import mariadb, postgresql
from tests.support.servers.local import PASSWORD
from tests.support.servers.sql import USER

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/how-to/backup.md").read_text()

Json = dict[str, Any]


def documented(beginning: str, replaced: dict[str, str]) -> str:
    """Return the command of the guide that begins so, with other folders and servers."""
    (line,) = re.findall(rf"^ *({re.escape(beginning)}.*)$", GUIDE, re.MULTILINE)
    for old, new in replaced.items():
        line = line.replace(old, new)
    return line


class AdminAndDaemonCase(TestCase):
    """Runs a daemon and commands in one folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.settings: dict[str, object] = {"uploads.wait": 30}

    async def daemon(self) -> Daemon:
        """Start a daemon that ends with the test."""
        daemon = Daemon(self.folder, settings=self.settings, preloaded=True)
        self.addCleanup(daemon.remove)
        await daemon.start()
        return daemon

    async def run_in_folder(self, words: Sequence[str] | str, **environ: str) -> str:
        """Run a command, which must succeed, and return its output."""
        status, output = await self.outcome(words, **environ)
        self.assertEqual(status, 0, output)
        return output

    async def outcome(self, words: Sequence[str] | str, **environ: str) -> tuple[int, str]:
        """Run a command, and return its status and its output."""
        done = await deferToThread(
            subprocess.run,
            words,
            shell=isinstance(words, str),
            cwd=self.folder,
            env={**environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    async def admin(self, *arguments: str) -> tuple[int, str]:
        """Run ``fxprofile-admin`` with the settings of the daemon."""
        chosen = [f"--set={k}={v}" for k, v in self.settings.items()]
        ran = await deferToThread(
            nursery().run,
            [*arguments, *chosen],
            cwd=self.folder,
            environ=environment(),
            answers="",
        )
        return ran.status, ran.errors + ran.output


class RollbackTests(AdminAndDaemonCase):
    """A rollback to this version."""

    async def test_rollback(self) -> None:
        """
        After a newer version has migrated the database, a daemon of this version processes an
        upload, and ``migrate --check`` says that it works with the newer schema.
        """
        first = await self.daemon()
        await first.stop()
        engine = create_engine(f"sqlite:///{self.folder}/var/profile.db")
        with engine.begin() as connection:
            for statement in (*EXPANSION, f"UPDATE alembic_version SET version_num = '{NEXT}'"):
                connection.execute(text(statement))
        engine.dispose()
        status, answer = await Client(await self.daemon()).upload(plain())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        status, printed = await self.admin("migrate", "--check")
        self.assertEqual(status, 0, printed)
        self.assertIn(f"is {NEXT}: newer than {REVISION}, and this version works with it.", printed)

    async def test_order(self) -> None:
        """``migrate --help`` and the guide have the same steps in the same order."""
        _, printed = await self.outcome(command("migrate", "--help"))
        guide = (ROOT / "docs/how-to/upgrade.md").read_text()
        step = re.compile(r"^ *(\d\. .*)$", re.MULTILINE)
        self.assertEqual(step.findall(printed), step.findall(guide))
        self.assertEqual(len(step.findall(guide)), 4)


class BackupCase(AdminAndDaemonCase):
    """A backup is made while the daemon runs, everything is lost, and the backup is restored."""

    #: The beginnings of the commands that copy and restore the database.
    dump: tuple[str, ...] = ()
    restore = ""

    def replaced(self) -> dict[str, str]:
        """Return what differs from the guide in the command that makes the dump."""
        raise NotImplementedError

    def new_database(self) -> dict[str, str]:
        """Make an empty database for the restore, and return what differs in its command."""
        raise NotImplementedError

    def grow_old(self) -> None:
        """Make every object two days old."""
        then = time.time() - 3 * 86400
        for path in (self.folder / "var/buckets").rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))

    async def orphans(self) -> Json:
        """Compare rows and objects."""
        _, printed = await self.admin("orphans", "--json")
        found: Json = json.loads(printed[printed.index("{") :])
        return found

    async def test_backup_and_restore(self) -> None:
        """
        After a restore, every avatar of the backup is served; ``orphans`` finds the objects that
        are newer than the dump, and the avatars that lack pictures.
        """
        (self.folder / "backup").mkdir(mode=0o777)
        buckets = {
            "/var/lib/fxprofile/var/": "var/",
            "/backup/": f"{self.folder}/backup/",
        }
        daemon = await self.daemon()
        client = Client(daemon)
        await client.ask("POST", "/v1/display_name", b'{"displayName": "Zo\xc3\xab"}')
        _, first = await client.upload(plain())
        replaced = {**buckets, **self.replaced()}
        # The second time, as on the next day.
        for beginning in 2 * self.dump:
            await self.run_in_folder(documented(beginning, replaced), PGPASSWORD=PASSWORD)
        _, second = await Client(daemon, "bob").upload(plain())
        await self.run_in_folder(documented("rsync", buckets))
        await daemon.stop()

        shutil.rmtree(self.folder / "var")
        (self.folder / "var").mkdir()
        replaced = {**buckets, **self.new_database()}
        await self.run_in_folder(documented(self.restore, replaced), PGPASSWORD=PASSWORD)
        shutil.copytree(self.folder / "backup/buckets", self.folder / "var/buckets")
        status, printed = await self.admin("migrate", "--check")
        self.assertEqual(status, 0, printed)
        self.grow_old()
        found = await self.orphans()
        self.assertEqual(found["looked_at"], {"rows": 1, "pictures": 2, "originals": 0})
        self.assertEqual([orphan["avatar"] for orphan in found["orphans"]], [second["id"]])
        self.assertEqual(found["broken_total"], 0)

        client = Client(await self.daemon())
        _, profile = await client.ask("GET", "/v1/profile")
        self.assertEqual((profile["avatarId"], profile["displayName"]), (first["id"], "Zoë"))
        self.assertEqual((await client.picture(profile["avatar"]))[0], 200)
        _, third = await client.upload(plain())
        self.assertEqual(third["status"], "ready")
        for path in (self.folder / "var/buckets").rglob(f"*{third['id']}_small*"):
            path.unlink()
        self.assertEqual([b["avatar"] for b in (await self.orphans())["broken"]], [third["id"]])


class SqliteBackupTests(BackupCase):
    """A backup of SQLite."""

    if shutil.which("sqlite3") is None or shutil.which("rsync") is None:
        skip = "sqlite3 or rsync is not installed"

    dump, restore = ("rm -f /backup", "sqlite3", "mv /backup"), "cp /backup/profile.db"

    def replaced(self) -> dict[str, str]:
        return {}

    def new_database(self) -> dict[str, str]:
        return {}


class MariadbBackupTests(BackupCase):
    """A backup of MariaDB."""

    skip = mariadb.missing() or (None if shutil.which("rsync") else "rsync is not installed")

    dump, restore = ("mariadb-dump",), "mariadb fxprofile"

    def login(self, program: str) -> dict[str, str]:
        """Return the command with the server and the user of the database."""
        url = make_url(str(self.settings["database.url"]))
        options = f"{program} --protocol=tcp --port={url.port} --user={USER} --password={PASSWORD}"
        return {
            " fxprofile": f" {url.database}",
            f"{program} ": f"{options} --skip-ssl ",
        }

    def replaced(self) -> dict[str, str]:
        return self.login("mariadb-dump")

    def new_database(self) -> dict[str, str]:
        self.settings["database.url"] = mariadb.shared().new_database()
        return self.login("mariadb")

    def setUp(self) -> None:
        super().setUp()
        self.settings["database.url"] = mariadb.shared().new_database()


class PostgresqlBackupTests(BackupCase):
    """A backup of PostgreSQL."""

    skip = postgresql.missing() or (None if shutil.which("rsync") else "rsync is not installed")

    dump, restore = ("pg_dump",), "psql"

    def replaced(self) -> dict[str, str]:
        url = str(self.settings["database.url"]).replace("+psycopg", "")
        return {"postgresql://fxprofile@db/fxprofile": url}

    def new_database(self) -> dict[str, str]:
        self.settings["database.url"] = postgresql.shared().new_database()
        return self.replaced()

    def setUp(self) -> None:
        super().setUp()
        self.settings["database.url"] = postgresql.shared().new_database()


# What is no test case of its own is not to be found by the runner.
del BackupCase

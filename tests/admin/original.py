"""A database of the original profile server, and a base class for tests of its import."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image
from sqlalchemy import create_engine, text
from twisted.internet.threads import deferToThread

from fxprofile.admin.shared.tools import Tools
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.keys import VARIANTS, public_key
from tests.admin.support import AdminCase

#: What https://github.com/mozilla/fxa has in schema.sql and patch-003-004.sql.
SCHEMA = """
CREATE TABLE avatar_providers (
  id INT AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(32) NOT NULL,
  UNIQUE INDEX avatar_providers_name(name)
) ENGINE=InnoDB CHARACTER SET utf8 COLLATE utf8_unicode_ci;
CREATE TABLE avatars (
  id BINARY(16) PRIMARY KEY,
  url VARCHAR(256) NOT NULL,
  userId BINARY(16) NOT NULL,
  INDEX avatars_user_id(userId),
  providerId INT NOT NULL,
  FOREIGN KEY (providerId) REFERENCES avatar_providers(id) ON DELETE CASCADE
) ENGINE=InnoDB CHARACTER SET utf8 COLLATE utf8_unicode_ci;
CREATE TABLE avatar_selected (
  userId BINARY(16) NOT NULL PRIMARY KEY,
  avatarId BINARY(16) NOT NULL,
  FOREIGN KEY (avatarId) REFERENCES avatars(id) ON DELETE CASCADE
) ENGINE=InnoDB CHARACTER SET utf8 COLLATE utf8_unicode_ci;
CREATE TABLE profile (
  userId BINARY(16) NOT NULL PRIMARY KEY,
  displayName VARCHAR(256)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
"""

#: The same tables, in the SQLite that stands for MySQL.
SQLITE_SCHEMA = """
CREATE TABLE avatar_providers (id INTEGER PRIMARY KEY, name VARCHAR(32));
CREATE TABLE avatars (id BLOB PRIMARY KEY, url VARCHAR(256), userId BLOB, providerId INTEGER);
CREATE TABLE avatar_selected (userId BLOB PRIMARY KEY, avatarId BLOB);
CREATE TABLE profile (userId BLOB PRIMARY KEY, displayName VARCHAR(256));
"""


def png(width: int, height: int) -> bytes:
    """A PNG in one colour."""
    file = BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(file, "PNG")
    return file.getvalue()


class Original:
    """The original server's database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url)
        if url.startswith("sqlite"):
            self.execute(*SQLITE_SCHEMA.strip().rstrip(";").split(";"))
        else:
            self.execute(*SCHEMA.strip().rstrip(";").split(";"))
        for number, name in ((1, "fxa"), (2, "gravatar")):
            self.execute(f"INSERT INTO avatar_providers (id, name) VALUES ({number}, '{name}')")

    @property
    def name_of_source(self) -> str:
        """The URL without its password."""
        return self.engine.url.set(query={}).render_as_string(hide_password=True)

    def execute(self, *statements: str, **values: Any) -> None:
        """Run SQL statements."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)
        self.engine.dispose()

    def name(self, uid: str, name: str | None) -> None:
        """Set the name of a user."""
        self.execute("DELETE FROM profile WHERE userId = :uid", uid=bytes.fromhex(uid))
        self.execute(
            "INSERT INTO profile (userId, displayName) VALUES (:uid, :name)",
            uid=bytes.fromhex(uid),
            name=name,
        )

    def avatar(
        self, uid: str, avatar_id: str, provider: int = 1, owner: str = "", url: str = ""
    ) -> None:
        """Select an avatar for a user."""
        values = {"id": bytes.fromhex(avatar_id), "uid": bytes.fromhex(uid)}
        self.execute(
            "INSERT INTO avatars (id, url, userId, providerId) VALUES (:id, :url, :owner, :p)",
            id=values["id"],
            owner=bytes.fromhex(owner or uid),
            p=provider,
            url=url or f"https://firefoxusercontent.example/{avatar_id}",
        )
        self.execute("DELETE FROM avatar_selected WHERE userId = :uid", uid=values["uid"])
        self.execute("INSERT INTO avatar_selected (userId, avatarId) VALUES (:uid, :id)", **values)


def uids(number: int) -> list[str]:
    """Return uids in order."""
    return [f"{i:032x}" for i in range(1, number + 1)]


class ImportCase(AdminCase):
    """Helpers for tests of an import, for any database."""

    async def original(self) -> Original:
        """Return the database to import from."""
        return await deferToThread(Original, f"sqlite:///{self.directory}/original.db")

    async def run_import(self, original: Original, *arguments: str, status: int = 0) -> Any:
        """Run an import and return its JSON."""
        ran = await self.admin(
            *("import-fxa", "--json", *arguments),
            status=status,
            FXA_PROFILE_DATABASE_URL=original.url,
        )
        return ran.json

    async def put_pictures(self, tools: Tools, avatar_id: str, *, data: bytes = b"") -> None:
        """Put the pictures of an avatar into the public bucket."""
        for name, (_, box) in VARIANTS.items():
            body = data or png(box, box // 2)
            await tools.public_bucket.put(
                key=public_key(avatar_id, name),
                body=BytesBody(body),
                length=len(body),
                content_type="image/png",
            )

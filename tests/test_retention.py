"""Tests that ``docs/reference/retention.md`` has every piece of data, with its lifetime."""

from __future__ import annotations

import re
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.shared import aws
from fxprofile.app import services
from fxprofile.drivers.redis import revocations
from fxprofile.drivers.sql.schema import metadata
from fxprofile.images import memory_cache
from fxprofile.model import ports
from fxprofile.settings.load import load
from fxprofile.settings.model import QueueSettings, StorageSettings
from fxprofile.uploads import repair
from fxprofile.web import avatar
from tests import test_reference
from tests.test_reference import section

PAGE = test_reference.REFERENCE / "retention.md"

#: The constants of lifetimes that the page names.
CONSTANTS: Final = {
    "EXPIRE_AGE": repair.EXPIRE_AGE,
    "FAILED_AGE": repair.FAILED_AGE,
    "FRESH_SECONDS": memory_cache.FRESH_SECONDS,
    "JOBS_KEPT": aws.JOBS_KEPT,
    "KEPT": aws.KEPT,
    "LEASE": repair.LEASE,
    "MONOGRAM_AGE": avatar.MONOGRAM_AGE,
    "ORIGINALS_EXPIRE": services.ORIGINALS_EXPIRE,
    "REPLACED_AGE": repair.REPLACED_AGE,
    "REVOCATION_AGE": revocations.KEEP,
    "TOMBSTONE_AGE": repair.TOMBSTONE_AGE,
    "WINDOW_SECONDS": ports.WINDOW_SECONDS,
}

#: The rows of the caches, by the modules that cache something, keep it in Redis, or let others
#: cache it; None if nothing in it is of a user.
CACHES: Final = {
    "drivers/fxa/identity.py": "revocations",
    "drivers/fxa/tokens.py": "tokens",
    "drivers/memory/expiring.py": "profiles",
    "drivers/redis/cache.py": "profiles",
    "drivers/redis/revocations.py": "revocations",
    "drivers/redis/windows.py": "limits",
    "images/memory_cache.py": "images",
    "images/resource.py": "http",
    "drivers/aws/s3.py": "http",
    "web/avatar.py": "monograms",
    "web/openapi.py": None,
}
#: What makes a module cache something.
_CACHES = re.compile(r"from cachetools|\"public, max-age|f?\"fxprofile:[a-z]+:")

UNITS: Final = {"s": 1, "hour": 3600, "hours": 3600, "days": 86400}

_CODE = re.compile(r"`([^`]+)`")


def described(heading: str) -> set[str]:
    """Return what the first column of the table below a heading names."""
    return {name for row in section(PAGE.name, heading) for name in _CODE.findall(row[0])}


class RetentionTests(SynchronousTestCase):
    """``docs/reference/retention.md``."""

    def test_columns(self) -> None:
        """The table has each column of the database."""
        columns = {f"{t.name}.{column.name}" for t in metadata.tables.values() for column in t.c}
        self.assertEqual(described("## In the database"), columns)

    def test_statuses(self) -> None:
        """The row of an upload has a lifetime in every status."""
        rows = section(PAGE.name, "The row of an upload is kept")
        self.assertEqual(
            {row[0] for row in rows},
            {"processing", "ready", "failed", "replaced", "being deleted"},
        )

    def test_buckets_and_queues(self) -> None:
        """The tables have each bucket and each queue of the settings."""
        buckets = {f"storage.{n}" for n in StorageSettings.model_fields if n.endswith("_bucket")}
        self.assertEqual(described("## In the buckets"), buckets)
        queues = {n.removesuffix("_url") for n in QueueSettings.model_fields if n.endswith("_url")}
        self.assertEqual(described("## On the queues"), queues - {"endpoint"})

    def test_caches(self) -> None:
        """The table has each cache, and each module that caches something is known here."""
        source = test_reference.SOURCE
        modules = {
            str(path.relative_to(source))
            for path in source.rglob("*.py")
            if _CACHES.search(path.read_text())
        }
        self.assertEqual(modules, set(CACHES))
        self.assertEqual(described("## In caches"), {name for name in CACHES.values() if name})

    def test_log_fields(self) -> None:
        """The table has each member and field that ``logs.md`` has, which has those of the code."""
        names = {
            name
            for heading in ("# Log fields", *(f"`Fields` of {kind}" for kind in self.KINDS))
            for row in section("logs.md", heading)
            for name in _CODE.findall(row[0])
        }
        self.assertGreater(len(names), 15)
        self.assertEqual(described("## In the logs"), names)

    KINDS = ("`request.summary`", "`activityEvent`", "all other lines")

    def test_lifetimes(self) -> None:
        """Each lifetime with the name of a constant is its value; no constant is left out."""
        found = re.findall(r"(\d+) ([a-z]+) \(`([A-Z_]+)`\)", PAGE.read_text())
        for number, unit, name in found:
            self.assertEqual(int(number) * UNITS[unit], CONSTANTS[name], name)
        self.assertEqual({name for _, _, name in found}, set(CONSTANTS))
        self.assertEqual(len(found), len(re.findall(r"\(`[A-Z_]+`\)", PAGE.read_text())))

    def test_settings(self) -> None:
        """Each lifetime with the name of a setting is its default."""
        found = re.findall(r"`(\w+)\.(\w+)` \((\d+) s\)", PAGE.read_text())
        self.assertEqual(len(found), len(re.findall(r"`\w+\.\w+` \(\d", PAGE.read_text())))
        self.assertGreater(len(found), 3)
        settings = load(environ={})
        for name, key, seconds in found:
            self.assertEqual(int(seconds), getattr(getattr(settings, name), key), key)

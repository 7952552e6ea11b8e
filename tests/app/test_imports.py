"""Which packages the process of each role imports, and what else its memory depends on."""

from __future__ import annotations

import gc
import re
import sys

from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.app.startup import settle_heap
from fxprofile.app.tls import uses_tls
from fxprofile.settings.load import load
from fxprofile.settings.model import Role
from tests.support.daemon import Daemon

#: The packages that every role imports, and no others.
EVERY = {
    "annotated_types",
    "attr",
    "attrs",
    "constantly",
    "dotenv",
    "fxprofile",
    "hyperlink",
    "idna",
    "incremental",
    "prometheus_client",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "twisted",
    "typing_extensions",
    "typing_inspection",
    "zope",
}
STORE = {"sqlalchemy"}
API = {"cachetools", "klein", "markupsafe", "werkzeug"}

IMPORTED = {
    Role.IMAGES: EVERY | {"cachetools"},
    Role.WORKER: EVERY | STORE,
    Role.WEB: EVERY | STORE | API,
    Role.COMBINED: EVERY | STORE | API,
}

#: Modules of these packages and of Python that no role imports unless a setting needs them.
NEVER = (
    "fxprofile.admin",
    "fxprofile.crunch.codec",
    "fxprofile.crunch.helper.",
    "sqlalchemy.dialects.postgresql",
    "twisted.internet.ssl",
    "twisted.protocols.tls",
    "twisted.web.client",
)

#: Modules that only the API needs.
API_ONLY = ("twisted.spread", "twisted.web.server", "xml")

#: A line of ``python -v``, which is written when a module has been imported.
_IMPORT = re.compile(r"^import '([\w.]+)' # ", re.MULTILINE)


class RoleTests(TestCase):
    """A running process of each role, with the default settings."""

    async def check(self, role: Role) -> None:
        daemon = Daemon(role=role, environ={"PYTHONVERBOSE": "1"})
        async with daemon:
            names = set(_IMPORT.findall(daemon.output))
        roots = {name.partition(".")[0] for name in names}
        known = {*sys.stdlib_module_names, "encodings"}
        outside = {root for root in roots if root not in known and not root.startswith("_")}
        self.assertIn("fxprofile", outside)
        self.assertEqual(outside - IMPORTED[role], set())
        never = NEVER if "klein" in outside else NEVER + API_ONLY
        self.assertEqual([name for name in names if f"{name}.".startswith(never)], [])

    async def test_images(self) -> None:
        """The images role imports neither a database, nor routes, nor TLS, nor Pillow."""
        await self.check(Role.IMAGES)

    async def test_worker(self) -> None:
        """The worker imports neither routes, nor TLS, nor Pillow."""
        await self.check(Role.WORKER)

    async def test_web(self) -> None:
        """The web role imports neither TLS, nor an HTTP client, nor Pillow, nor Alembic."""
        await self.check(Role.WEB)

    async def test_combined(self) -> None:
        """A process of all roles imports no more than the web role."""
        await self.check(Role.COMBINED)


class HeapTests(SynchronousTestCase):
    """The garbage collector after the start."""

    def test_collections_skip_what_the_start_has_made(self) -> None:
        """After the start, the collector runs, and skips the objects that exist."""
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.enable)
        gc.disable()
        settle_heap()
        self.assertTrue(gc.isenabled())
        self.assertGreater(gc.get_freeze_count(), len(gc.get_objects()))


class TlsTests(SynchronousTestCase):
    """Which processes need TLS."""

    def uses(self, role: Role, *overrides: str) -> bool:
        settings = load(overrides=overrides, environ={}, role=role)
        return uses_tls(settings, role)

    def test_the_defaults_need_none(self) -> None:
        """No role needs TLS with the default settings."""
        for role in Role:
            self.assertFalse(self.uses(role), role)

    def test_our_own_addresses_need_none(self) -> None:
        """The addresses that clients use do not matter: a proxy may have their certificates."""
        ours = ("web.public_url=https://api.example", "images.url=https://i.example/a/{id}")
        for role in Role:
            self.assertFalse(self.uses(role, *ours), role)

    def test_each_server_with_https_needs_it(self) -> None:
        """A process needs TLS if it may call a server over https or rediss, or calls AWS."""
        for overrides in (
            ("identity.driver=fxa", "identity.oauth_url=https://oauth.example/v1"),
            ("customs.url=https://customs.example",),
            ("cache.driver=redis", "cache.url=rediss://:secret@cache.example"),
            ("storage.driver=s3", "storage.endpoint_url=http://127.0.0.1:9000"),
        ):
            self.assertTrue(self.uses(Role.WEB, *overrides), overrides)

    def test_redis_needs_it(self) -> None:
        """A process with a Redis needs TLS, because txredisapi imports its libraries anyway."""
        redis = ("cache.driver=redis", "cache.url=redis://127.0.0.1")
        for role in Role:
            has_cache = role in (Role.WEB, Role.COMBINED)
            self.assertEqual(self.uses(role, *redis), has_cache, role)

    def test_the_images_role_calls_only_its_bucket(self) -> None:
        """The images role needs TLS for its bucket alone, whatever else the settings name."""
        others = ("customs.url=https://customs.example",)
        self.assertFalse(self.uses(Role.IMAGES, *others))
        self.assertTrue(self.uses(Role.IMAGES, *others, "storage.driver=s3"))

    def test_listeners_with_tls_need_it(self) -> None:
        """A process that listens with TLS, or on an endpoint of another kind, needs TLS."""
        own = ("web.public_url=http://127.0.0.1", "images.url=http://127.0.0.1/a/{id}")
        for role, key in (
            (Role.WEB, "web.listen"),
            (Role.IMAGES, "images.listen"),
            (Role.WORKER, "admin.listen"),
        ):
            for endpoint in ("ssl:1443:interface=127.0.0.1", "haproxy:tcp\\:1443"):
                listens = f"{key}={endpoint}"
                self.assertTrue(self.uses(role, *own, "identity.driver=fxa", listens), listens)
            self.assertFalse(self.uses(role, *own, f"{key}=tcp:1443:interface=127.0.0.1"))

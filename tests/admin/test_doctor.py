"""``fxprofile-admin doctor``."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import NoResource
from twisted.web.server import Site

from fxprofile.admin.doctor import (
    TIMEOUT,
    Check,
    Finding,
    Level,
    _codecs,
    _layers,
    _probe,
    _refusal,
    run_checks,
)
from fxprofile.crunch.result import Outcome, Report
from fxprofile.crunch.sandbox import LAYERS
from fxprofile.model.errors import ConfigError, StorageError, StoreError
from fxprofile.settings.model import Settings
from tests.admin.support import AdminCase
from tests.support.fakes.bucket import MemoryBucket
from tests.support.servers.local import PASSWORD, free_port


class DoctorTests(AdminCase):
    """What it says of a service on the embedded drivers."""

    async def findings(self, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
        """What it finds, by name."""
        ran = await self.admin("doctor", "--json", *arguments, status=status)
        self.assertEqual(ran.json["ok"], status == 0)
        return {finding.pop("name"): finding for finding in ran.json["findings"]}

    async def test_healthy(self) -> None:
        """All is well with a service that has run: each line says ok, and nothing is left."""
        async with self.service() as tools:
            for which in ("private", "public"):
                await tools.bucket(which).check()
            found = await self.findings()
            self.assertEqual(
                list(found),
                [
                    *("settings", "sandbox", "codecs", "private bucket", "public bucket"),
                    *("database", "jobs queue", "results queue", "dead queue"),
                    "results-dead queue",
                    *("identity", "cache"),
                ],
            )
            # The machine of the tests may lack layers.
            levels = {finding["level"] for name, finding in found.items() if name != "sandbox"}
            self.assertEqual(levels, {"ok"})
            self.assertIn("jpeg, png, gif, webp, avif went through", found["codecs"]["text"])
            self.assertIn("pil ", found["codecs"]["text"])
            self.assertIn("delete, get, put", found["private bucket"]["text"])
            for which in ("private", "public"):
                bucket = tools.bucket(which)
                self.assertEqual(await bucket.list(prefix="", after="", limit=9), [])

    async def test_fresh(self) -> None:
        """What the service makes at its start is missing before that, and is not made."""
        found = await self.findings()
        for name in ("private bucket", "public bucket", "database", "jobs queue"):
            self.assertEqual(found[name]["level"], "warning", name)
            self.assertTrue(found[name]["advice"])
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_lines(self) -> None:
        """For people, each finding is a line, and what to do the one below it."""
        (self.directory / "var").mkdir()
        (self.directory / "var/buckets").write_text("not a directory")
        ran = await self.admin("doctor", "--role=images", status=1)
        settings, bucket, advice = ran.output.splitlines()
        self.assertTrue(settings.startswith("ok       settings"))
        self.assertTrue(bucket.startswith("PROBLEM  public bucket"))
        self.assertIn("Not a directory", bucket)
        self.assertIn("-> check storage.directory", advice)

    async def test_roles(self) -> None:
        """A role is asked for no more than it needs."""
        await self.admin("migrate")
        self.assertEqual(list(await self.findings("--role=images")), ["settings", "public bucket"])
        worker = await self.findings("--role=worker")
        self.assertNotIn("cache", worker)
        self.assertNotIn("dead queue", worker)
        web = await self.findings("--role=web")
        self.assertNotIn("codecs", web)
        self.assertNotIn("public bucket", web)

    async def test_dead_dependencies(self) -> None:
        """Each thing that does not answer is a problem with advice; no secret is shown."""
        found = await self.findings(
            f"--set=database.url=mysql+pymysql://u:{PASSWORD}@127.0.0.1:{free_port()}/d",
            "--set=identity.driver=fxa",
            f"--set=identity.oauth_url=http://127.0.0.1:{free_port()}/v1",
            f"--set=identity.auth_url=http://127.0.0.1:{free_port()}/v1",
            "--set=cache.driver=redis",
            f"--set=cache.url=redis://:{PASSWORD}@127.0.0.1:{free_port()}",
            status=1,
        )
        for name in ("database", "jobs queue", "oauth server", "auth server", "cache"):
            self.assertEqual(found[name]["level"], "problem", name)
            self.assertTrue(found[name]["advice"], name)
        self.assertEqual(found["codecs"]["level"], "ok")
        self.assertNotIn(PASSWORD, str(found))

    async def test_identity_servers(self) -> None:
        """Servers that answer are fine, each by its name."""
        port: Any = reactor.listenTCP(0, Site(NoResource()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}/v1"
        found = await self.findings(
            *("--role=web", "--set=identity.driver=fxa"),
            *(f"--set=identity.oauth_url={url}", f"--set=identity.auth_url={url}"),
        )
        self.assertEqual(found["oauth server"]["text"], f"{url} answers")
        self.assertEqual(found["auth server"]["level"], "ok")

    async def test_limits_too_low(self) -> None:
        """If a good image is refused it says why, and the other checks go on."""
        found = await self.findings("--role=worker", "--set=crunch.max_side=1", status=1)
        self.assertEqual(found["sandbox"]["level"], "ok")
        self.assertEqual(found["codecs"]["level"], "problem")
        self.assertIn("too_many_pixels", found["codecs"]["text"])
        self.assertIn("jobs queue", found)

    async def test_dead_letters(self) -> None:
        """Dead letters are a warning, with what to do."""
        async with self.service() as tools:
            await tools.needed_queue("dead").send(body="x")
            results: Any = tools.needed_queue("results")
            await results.dead.send(body="x")
        found = await self.findings("--role=web")
        for name in ("dead queue", "results-dead queue"):
            self.assertEqual(found[name]["level"], "warning")
            self.assertIn("dead list", found[name]["advice"])

    async def test_production_on_one_machine(self) -> None:
        """In production, drivers of one machine are worth a warning."""
        found = await self.findings("--role=images", "--set=environment=production")
        self.assertEqual(found["settings"]["level"], "warning")
        self.assertIn("storage.driver = filesystem", found["settings"]["text"])

    async def test_wrong_setting(self) -> None:
        """What this role may not have set ends it, with one line."""
        line = await self.error("doctor", "--role=web", "--set=environment=production", status=2)
        self.assertIn("identity.driver", line)


class LayersTests(SynchronousTestCase):
    """What it says of the sandbox."""

    def level(self, *missing: str, **crunch: Any) -> Level:
        """How bad it is without these layers."""
        layers = {layer: layer not in missing for layer in LAYERS}
        finding = _layers(Settings(crunch=crunch).sandbox, layers)
        self.assertEqual(finding.advice is None, finding.level is Level.OK)
        return finding.level

    def test_levels(self) -> None:
        """Every layer is fine, some is a warning, and neither wall is a problem."""
        self.assertEqual(self.level(), Level.OK)
        self.assertEqual(self.level("landlock"), Level.WARNING)
        self.assertEqual(self.level("namespaces"), Level.WARNING)
        self.assertEqual(self.level("landlock", "seccomp"), Level.PROBLEM)
        self.assertEqual(self.level("no_new_privs"), Level.PROBLEM)
        self.assertEqual(self.level(*LAYERS, sandbox="off"), Level.WARNING)


class CodecsTests(SynchronousTestCase):
    """What it reports of the codecs."""

    def test_a_refused_sample_is_a_problem_that_names_it(self) -> None:
        """If good images are refused, the finding names them, the reasons and the codecs."""
        reports = {
            "png": Report(Outcome(kind="png"), True),
            "gif": Report(Outcome(reason="corrupt", detail="no decoder"), True),
            "webp": Report(Outcome(kind="avif"), True),
        }
        refused = [text for kind, report in reports.items() for text in _refusal(kind, report)]
        finding = _codecs(refused, {"pil": "13.0.0"})
        self.assertEqual(finding.level, Level.PROBLEM)
        self.assertIn("gif (corrupt: no decoder), webp (None: )", finding.text)
        self.assertIn("pil 13.0.0", finding.text)


class _Forgetful(MemoryBucket):
    """Does not delete."""

    async def delete(self, *, keys: Any) -> None:
        pass


class _Mixed(MemoryBucket):
    """Stores something else."""

    async def put(self, *, key: str, body: Any, length: int, content_type: str) -> None:
        from fxprofile.deferreds.bodies import BytesBody

        await super().put(
            key=key, body=BytesBody(b"x" * length), length=length, content_type=content_type
        )


class ProbeTests(SynchronousTestCase):
    """How a bucket is tried."""

    ALL = frozenset({"put", "get", "delete"})

    def test_bad_buckets(self) -> None:
        """A bucket that keeps what was deleted, or gives other bytes, is found out."""
        for bucket, text in ((_Forgetful(), "after it was deleted"), (_Mixed(), "does not hold")):
            failure = self.failureResultOf(
                Deferred.fromCoroutine(_probe(bucket, "a", self.ALL)), StorageError
            )
            self.assertIn(text, str(failure.value))

    def test_rights(self) -> None:
        """Without the right to put, an object that is not there is looked for and deleted."""
        for rights in (self.ALL, frozenset({"get"}), frozenset({"get", "delete"})):
            bucket = MemoryBucket()
            self.successResultOf(Deferred.fromCoroutine(_probe(bucket, "a", rights)))
            listing = bucket.list(prefix="", after="", limit=9)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(listing)), [])


class RunChecksTests(SynchronousTestCase):
    """How checks are run."""

    def test_outcomes(self) -> None:
        """A check that fails or hangs is a problem of its own, and the others go on."""
        clock = Clock()

        async def good() -> Any:
            return [Finding("good", Level.OK, "well")]

        async def broken() -> Any:
            raise StoreError("no\ndatabase")

        async def wrong() -> Any:
            raise ConfigError("a: is wrong")

        async def hangs() -> Any:
            await Deferred()

        looks = {"hangs": hangs, "broken": broken, "good": good, "wrong": wrong}
        running = Deferred.fromCoroutine(
            run_checks(clock, (Check(name, look, "do") for name, look in looks.items()))
        )
        self.assertNoResult(running)
        clock.advance(TIMEOUT)
        found = self.successResultOf(running)
        self.assertEqual(
            [(f.name, f.level, f.text, f.advice) for f in found],
            [
                ("hangs", Level.PROBLEM, f"no answer in {TIMEOUT:.0f} s", "do"),
                ("broken", Level.PROBLEM, "no database", "do"),
                ("good", Level.OK, "well", None),
                ("wrong", Level.PROBLEM, "a: is wrong", "do"),
            ],
        )

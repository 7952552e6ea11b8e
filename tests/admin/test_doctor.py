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
    Flaw,
    Level,
    check_codecs,
    check_layers,
    run_checks,
)
from fxprofile.crunch.result import CrunchOutcome
from fxprofile.crunch.sandbox import LAYERS
from fxprofile.model.errors import ConfigError, StoreError
from fxprofile.settings.model import Settings
from tests.admin.support import AdminCase
from tests.support.servers.local import PASSWORD, free_port


class DoctorTests(AdminCase):
    """``doctor`` on the embedded drivers."""

    async def findings(self, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
        """Return the findings by name."""
        ran = await self.admin("doctor", "--json", *arguments, status=status)
        self.assertEqual(ran.json["ok"], status == 0)
        return {finding.pop("name"): finding for finding in ran.json["findings"]}

    async def test_a_working_service_has_only_ok_findings(self) -> None:
        """On a service that has run, every finding is ok, and no probe object is left."""
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

    async def test_what_does_not_exist_yet_is_a_warning_and_is_not_created(self) -> None:
        """Before the first start, folders and database are warnings, and are not created."""
        found = await self.findings()
        for name in ("private bucket", "public bucket", "database", "jobs queue"):
            self.assertEqual(found[name]["level"], "warning", name)
            self.assertTrue(found[name]["advice"])
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_advice_is_the_line_below_its_finding(self) -> None:
        """In the text output each finding is a line, with its advice on the next line."""
        (self.directory / "var").mkdir()
        (self.directory / "var/buckets").write_text("not a directory")
        ran = await self.admin("doctor", "--role=images", status=1)
        settings, bucket, advice = ran.output.splitlines()
        self.assertTrue(settings.startswith("ok       settings"))
        self.assertTrue(bucket.startswith("PROBLEM  public bucket"))
        self.assertIn("Not a directory", bucket)
        self.assertIn("-> check storage.directory", advice)

    async def test_advice_names_who_creates_a_queue(self) -> None:
        """``provision`` creates a queue of the service; the others belong to the accounts."""
        await self.admin("migrate")
        queues = [
            f"--set=queue.{name}_url=http://127.0.0.1:{free_port()}/123456789012/{name}"
            for name in ("jobs", "results", "events", "updates")
        ]
        found = await self.findings("--role=web", "--set=queue.driver=sqs", *queues, status=1)
        for name, creator in (
            ("jobs", "provision"),
            ("events", "accounts"),
            ("updates", "accounts"),
        ):
            self.assertIn(creator, found[f"{name} queue"]["advice"])

    async def test_a_role_is_checked_for_what_it_needs(self) -> None:
        """The report of a role has no finding about what the role does not use."""
        await self.admin("migrate")
        self.assertEqual(list(await self.findings("--role=images")), ["settings", "public bucket"])
        worker = await self.findings("--role=worker")
        self.assertNotIn("cache", worker)
        self.assertNotIn("dead queue", worker)
        web = await self.findings("--role=web")
        self.assertNotIn("codecs", web)
        self.assertNotIn("public bucket", web)

    async def test_unreachable_dependencies_are_problems(self) -> None:
        """Each unreachable dependency is a problem with advice, and no secret is shown."""
        found = await self.findings(
            f"--set=database.url=mysql+pymysql://u:{PASSWORD}@127.0.0.1:{free_port()}/d",
            "--set=identity.driver=fxa",
            f"--set=identity.oauth_url=http://127.0.0.1:{free_port()}/v1",
            f"--set=identity.auth_url=http://127.0.0.1:{free_port()}/v1",
            "--set=cache.driver=redis",
            f"--set=cache.url=redis://:{PASSWORD}@127.0.0.1:{free_port()}",
            status=1,
        )
        for name in ("database", "jobs queue", "oauth server", "auth server"):
            self.assertEqual(found[name]["level"], "problem", name)
            self.assertTrue(found[name]["advice"], name)
        self.assertEqual(found["codecs"]["level"], "ok")
        self.assertEqual(found["cache"]["level"], "warning", "the service works without it")
        self.assertIn("slower", found["cache"]["advice"])
        self.assertNotIn(PASSWORD, str(found))

    async def test_identity_servers_that_answer_are_ok(self) -> None:
        """Each identity server that answers is an ok finding with its own name."""
        port: Any = reactor.listenTCP(0, Site(NoResource()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}/v1"
        found = await self.findings(
            *("--role=web", "--set=identity.driver=fxa"),
            *(f"--set=identity.oauth_url={url}", f"--set=identity.auth_url={url}"),
        )
        self.assertEqual(found["oauth server"]["text"], f"{url} answers")
        self.assertEqual(found["auth server"]["level"], "ok")

    async def test_a_refused_sample_does_not_stop_the_other_checks(self) -> None:
        """If a valid image is refused, the finding says why, and the other checks run."""
        found = await self.findings("--role=worker", "--set=crunch.max_side=1", status=1)
        self.assertEqual(found["sandbox"]["level"], "ok")
        self.assertEqual(found["codecs"]["level"], "problem")
        self.assertIn("too_wide", found["codecs"]["text"])
        self.assertIn("jobs queue", found)

    async def test_dead_letters_are_warnings(self) -> None:
        """Dead letters of a queue are a warning whose advice names the command to run."""
        async with self.service() as tools:
            await tools.needed_queue("dead").send(body="x")
            results: Any = tools.results_queue
            await results.dead.send(body="x")
        found = await self.findings("--role=web")
        for name in ("dead queue", "results-dead queue"):
            self.assertEqual(found[name]["level"], "warning")
            self.assertIn("dead list", found[name]["advice"])

    async def test_single_host_drivers_in_production_are_a_warning(self) -> None:
        """In production, single-host drivers are a warning that names them."""
        found = await self.findings("--role=images", "--set=environment=production")
        self.assertEqual(found["settings"]["level"], "warning")
        self.assertIn("storage.driver: filesystem serves a single host", found["settings"]["text"])

    async def test_a_doubtful_setting_is_a_warning(self) -> None:
        """The finding about the settings is a warning that names each doubtful setting."""
        found = await self.findings("--role=worker", "--set=queue.visibility_timeout=3")
        self.assertEqual(found["settings"]["level"], "warning")
        self.assertIn("queue.visibility_timeout: 3 s", found["settings"]["text"])

    async def test_a_wrong_setting_is_one_line(self) -> None:
        """A setting that the role does not allow is one line, and the status is 2."""
        line = await self.error("doctor", "--role=web", "--set=environment=production", status=2)
        self.assertIn("identity.driver", line)


class LayersTests(SynchronousTestCase):
    """The finding about the sandbox."""

    def level(self, *missing: str, **crunch: Any) -> Level:
        """Return the level of the finding without these layers."""
        layers = {layer: layer not in missing for layer in LAYERS}
        try:
            check_layers(Settings(crunch=crunch).sandbox, layers)
        except Flaw as flaw:
            return flaw.level
        return Level.OK

    def test_missing_layers_are_warnings_or_problems(self) -> None:
        """All layers are ok, one missing layer is a warning, no privilege barrier is a problem."""
        self.assertEqual(self.level(), Level.OK)
        self.assertEqual(self.level("landlock"), Level.WARNING)
        self.assertEqual(self.level("namespaces"), Level.WARNING)
        self.assertEqual(self.level("landlock", "seccomp"), Level.PROBLEM)
        self.assertEqual(self.level("no_new_privs"), Level.PROBLEM)
        self.assertEqual(self.level(*LAYERS, sandbox="off"), Level.WARNING)


class CodecsTests(SynchronousTestCase):
    """The finding about the codecs."""

    def test_a_refused_sample_is_a_problem_that_names_it(self) -> None:
        """If good images are refused, the finding names them, the reasons and the codecs."""
        outcomes = {
            "png": CrunchOutcome(kind="png"),
            "gif": CrunchOutcome(reason="corrupt", detail="no decoder"),
            "webp": CrunchOutcome(kind="avif"),
        }
        flaw = self.assertRaises(Flaw, check_codecs, outcomes, {"pil": "13.0.0"})
        self.assertEqual(flaw.level, Level.PROBLEM)
        self.assertIn("gif (corrupt: no decoder), webp (None: )", str(flaw))
        self.assertIn("pil 13.0.0", str(flaw))


class RunChecksTests(SynchronousTestCase):
    """Running checks."""

    def test_a_failing_or_hanging_check_is_a_problem(self) -> None:
        """A check that fails or hangs becomes a problem with its advice, and the others run."""
        clock = Clock()

        async def good() -> Any:
            return "well"

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
                ("hangs", Level.PROBLEM, f"no response in {TIMEOUT:.0f} s", "do"),
                ("broken", Level.PROBLEM, "no database", "do"),
                ("good", Level.OK, "well", None),
                ("wrong", Level.PROBLEM, "a: is wrong", "do"),
            ],
        )

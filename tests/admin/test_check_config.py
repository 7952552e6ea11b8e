"""``fxprofile-admin check-config``."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.check_config import MASK, effective, masked_url
from fxprofile.settings.model import Role, Settings
from tests.admin.support import AdminCase

SECRET = "Tr0ub4dor-p4ssword"


class CheckConfigTests(AdminCase):
    """``check-config``."""

    async def test_the_defaults_are_valid_and_printed(self) -> None:
        """Each setting is printed on a line with its default."""
        ran = await self.admin("check-config", bare=True)
        lines = dict(line.split(None, 1) for line in ran.output.splitlines())
        self.assertEqual(lines["uploads.max_bytes"], "10485760")
        self.assertEqual(lines["queue.jobs_url"], "-")

    async def test_every_problem_is_one_line(self) -> None:
        """All problems are reported at once, one line each, and the status is 2."""
        (self.directory / "a.toml").write_text("[crunch]\ntimeout = -1\n[nothing]\nx = 1\n")
        ran = await self.admin(
            *("check-config", "--config=a.toml", "--set=queue.driver=abacus", "--set=oops"),
            bare=True,
            status=2,
            FXPROFILE_WEBB__LISTEN="x",
            FXPROFILE_CACHE__TTL="0",
        )
        self.assertEqual(ran.output, "")
        for key in (
            "FXPROFILE_WEBB__LISTEN",
            "crunch.timeout",
            "nothing",
            "queue.driver",
            "--set oops",
            "cache.ttl",
        ):
            self.assertIn(f"fxprofile-admin: {key}", ran.errors)
        self.assertEqual(len(ran.errors.splitlines()), 6)

    async def test_problems_are_a_list_in_json(self) -> None:
        """With problems, the JSON holds them as a list and no settings."""
        ran = await self.admin(
            "check-config", "--json", "--set=web.client_address_depth=x", bare=True, status=2
        )
        self.assertFalse(ran.json["ok"])
        self.assertEqual(ran.json["settings"], {})
        self.assertEqual(len(ran.json["problems"]), 1)
        self.assertIn("web.client_address_depth", ran.json["problems"][0])

    async def test_what_is_probably_a_mistake_is_a_warning(self) -> None:
        """A doubtful setting is a line on the standard error and in the JSON; the status is 0."""
        short = "--set=queue.visibility_timeout=3"
        ran = await self.admin("check-config", short, bare=True)
        self.assertIn("fxprofile-admin: warning: queue.visibility_timeout: 3 s", ran.errors)
        ran = await self.admin("check-config", "--json", short, bare=True)
        self.assertTrue(ran.json["ok"])
        self.assertEqual(len(ran.json["warnings"]), 1)

    async def test_settings_are_checked_for_the_role(self) -> None:
        """A setting that one role needs may be missing for another role."""
        sqs = "--set=queue.driver=sqs"
        await self.admin("check-config", "--role=images", sqs, bare=True)
        ran = await self.admin("check-config", "--role=worker", sqs, bare=True, status=2)
        self.assertIn("queue.jobs_url", ran.errors)
        redis = "--set=cache.driver=redis"
        await self.admin("check-config", "--role=worker", redis, bare=True)
        ran = await self.admin("check-config", "--role=web", redis, bare=True, status=2)
        self.assertIn("cache.url", ran.errors)

    async def test_defaults_that_depend_on_other_settings_are_resolved(self) -> None:
        """A default that depends on other settings or on the role is shown as its value."""
        ran = await self.admin(
            *("check-config", "--role=worker", "--set=environment=production", "--json"),
            bare=True,
        )
        shown = ran.json["settings"]
        self.assertEqual(shown["crunch"]["sandbox"], "strict")
        self.assertIn("1113", shown["admin"]["listen"])

    async def test_common_options_may_stand_before_and_after_the_command(self) -> None:
        """A common option is accepted before and after the command name; the later one wins."""
        ran = await self.admin(
            *("--set=uploads.wait=1", "--set=cache.ttl=7", "--json", "check-config"),
            "--set=uploads.wait=2",
            bare=True,
        )
        self.assertEqual(ran.json["settings"]["uploads"]["wait"], 2)
        self.assertEqual(ran.json["settings"]["cache"]["ttl"], 7)

    async def test_no_secret_is_printed(self) -> None:
        """Secrets of a file, of URLs and of error messages are not printed."""
        (self.directory / "s.toml").write_text(
            f"""
            secret_bearer_token = "{SECRET}"
            [database]
            url = "mysql+pymysql://user:{SECRET}@db.example.com/profile?ssl_key_password={SECRET}"
            [cache]
            driver = "redis"
            url = "redis://:{SECRET}@cache.example.com:6379/1"
            [sentry]
            dsn = "https://{SECRET}@sentry.example.com/1"
            [aws]
            endpoint_url = "https://user:{SECRET}@aws.example.com"
            [[identity.dev.accounts]]
            token = "{SECRET}"
            uid = "someone"
            email = "someone@example.com"
            """
        )
        for form in ([], ["--json"]):
            ran = await self.admin("check-config", "--config=s.toml", *form, bare=True)
            self.assertNotIn(SECRET, ran.output + ran.errors)
            self.assertIn("user:********@db.example.com/profile", ran.output)
            self.assertIn("cache.example.com:6379/1", ran.output)
        wrong = await self.admin(
            *("check-config", "--config=s.toml", f"--set=database.url=oracle://a:{SECRET}@b/c"),
            bare=True,
            status=2,
        )
        self.assertNotIn(SECRET, wrong.errors)

    async def test_an_unreadable_settings_file_is_one_line(self) -> None:
        """With a settings file that does not exist, every command prints one line."""
        for name in ("check-config", "queues", "migrate"):
            line = await self.error(name, "--config=none.toml", status=2, bare=True)
            self.assertIn("none.toml: No such file", line)


class EffectiveTests(SynchronousTestCase):
    """The settings as JSON."""

    def test_every_setting_is_included(self) -> None:
        """The JSON has every section and every setting under its own name."""
        shown = effective(Settings(), Role.COMBINED)
        self.assertEqual(set(shown), set(Settings.model_fields))
        for name, section in Settings.model_fields.items():
            fields = getattr(section.annotation, "model_fields", None)
            if fields:
                self.assertEqual(set(shown[name]), set(fields))

    def test_a_path_is_text(self) -> None:
        """A setting that is a path is text in the JSON."""
        settings = Settings(storage={"directory": Path("/a/b")})
        self.assertEqual(effective(settings, Role.WEB)["storage"]["directory"], "/a/b")


class MaskedUrlTests(SynchronousTestCase):
    """URLs without their secrets."""

    def test_only_passwords_and_secret_parameters_are_masked(self) -> None:
        """The password and secret query parameters are masked, the rest is unchanged."""
        for url, shown in {
            "sqlite:///var/profile.db": "sqlite:///var/profile.db",
            "sqlite:////srv/profile.db": "sqlite:////srv/profile.db",
            "http://127.0.0.1:1112/a/{id}": "http://127.0.0.1:1112/a/{id}",
            "redis://h:6379/1": "redis://h:6379/1",
            "postgresql+psycopg://u:p@[::1]:5/d?sslmode=require&password=p": (
                f"postgresql+psycopg://u:{MASK}@[::1]:5/d?sslmode=require&password={MASK}"
            ),
            "redis://:p@h": f"redis://:{MASK}@h",
            "http://u:p:q@x@h/": f"http://u:{MASK}@h/",
            "sqlite:///a?key=": f"sqlite:///a?key={MASK}",
            "http://h/a?b&c=d": "http://h/a?b&c=d",
            "no url": MASK,
        }.items():
            self.assertEqual(masked_url(url), shown)

    @given(st.text(min_size=4).map(lambda text: f"Qz{text}zQ"))
    def test_no_part_of_a_password_is_shown(self, password: str) -> None:
        """No part of a password is shown, even if it contains special characters."""
        for url in (f"mysql+pymysql://u:{password}@h/d", f"redis://:{password}@h"):
            shown = masked_url(url)
            self.assertNotIn(password, shown)
            self.assertNotIn("Qz", shown)
            self.assertNotIn("zQ", shown)

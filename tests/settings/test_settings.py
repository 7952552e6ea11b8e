"""The settings: where they come from, and what is said when they are wrong."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sentry_sdk.utils import Dsn
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import ConfigError
from fxprofile.settings.load import load, local_drivers, read
from fxprofile.settings.model import Role, is_loopback


def problem(*overrides: str, role: Role = Role.COMBINED, **environ: str) -> str:
    """The one line that is said of these settings."""
    try:
        load(overrides=overrides, environ=environ, role=role)
    except ConfigError as error:
        return str(error)
    raise AssertionError("there is nothing wrong")


class SourceTests(SynchronousTestCase):
    """Where a setting comes from."""

    def write(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def test_order(self) -> None:
        """The command line goes above the environment, that above the file, that above defaults."""
        path = self.write("[images]\nmax_age = 1\n[uploads]\nwait = 1\nper_hour = 1\n")
        settings = load(
            config=path,
            environ={"FXPROFILE_UPLOADS__WAIT": "2", "FXPROFILE_UPLOADS__PER_HOUR": "2"},
            overrides=["uploads.per_hour=3"],
        )
        self.assertEqual(
            (settings.images.max_age, settings.uploads.wait, settings.uploads.per_hour), (1, 2, 3)
        )
        self.assertEqual(settings.web.client_address_depth, 1)

    def test_environment_within(self) -> None:
        """A variable for one setting goes above one for its whole section."""
        section = {"FXPROFILE_UPLOADS": '{"wait": 3, "per_hour": 4}'}
        settings = load(environ={"FXPROFILE_UPLOADS__WAIT": "5", **section})
        self.assertEqual((settings.uploads.wait, settings.uploads.per_hour), (5, 4))

    def test_frozen(self) -> None:
        """Nobody changes a setting after the start."""
        settings = load(environ={})
        with self.assertRaises(ValueError):
            settings.web.listen = "tcp:1"  # type: ignore[misc]

    def test_file_away(self) -> None:
        """A file that cannot be read, or is no TOML, is named."""
        self.assertIn("/no/such.toml", self.failing(config="/no/such.toml"))
        path = self.write("[web")
        self.assertIn(path, self.failing(config=path))

    def failing(self, config: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            load(config=config, environ={})
        return str(caught.exception)

    def test_everything_at_once(self) -> None:
        """All that is wrong can be had at one time."""
        problems, settings = read(
            overrides=["web.nothing=1", "crunch.processes=0"], environ={"FXPROFILE_NOTHING": "1"}
        )
        self.assertIsNone(settings)
        self.assertEqual(len(problems), 3)

    def test_combinations_too(self) -> None:
        """What does not go together is said together with what is wrong by itself."""
        problems, settings = read(
            overrides=["uploads.wait=77", "x.y=1", "environment=production"], environ={}
        )
        self.assertIsNone(settings)
        self.assertEqual(
            [line.partition(":")[0] for line in problems], ["uploads.wait", "x", "identity.driver"]
        )

    def test_sizes(self) -> None:
        """Sizes may be written as people write them."""
        settings = load(overrides=["uploads.max_bytes=5MiB", "crunch.memory=2GiB"], environ={})
        self.assertEqual((settings.uploads.max_bytes, settings.crunch.memory), (5 << 20, 2 << 30))

    def test_lists(self) -> None:
        """A list may be JSON, or words with commas, in the environment and on the command line."""
        for text in ("png,webp", "png, webp", '["png", "webp"]'):
            for settings in (
                load(environ={"FXPROFILE_CRUNCH__FORMATS": text}),
                load(overrides=[f"crunch.formats={text}"], environ={}),
            ):
                self.assertEqual(settings.crunch.formats, ("png", "webp"))

    def test_not_json(self) -> None:
        """What can only be JSON, and is not, is named and not quoted."""
        for name in ("FXPROFILE_IDENTITY__DEV__ACCOUNTS", "FXPROFILE_CRUNCH"):
            line = problem(**{name: "[secret"})
            self.assertEqual(line, f"{name}: the value must be JSON")


class ProblemTests(SynchronousTestCase):
    """What is said, in one line that begins with the key."""

    def test_unknown(self) -> None:
        """A key that there is not is named, wherever it stands."""
        self.assertEqual(problem("web.colour=red"), "web.colour: there is no such setting")
        self.assertEqual(problem("colour=red"), "colour: there is no such setting")
        self.assertEqual(
            problem(FXPROFILE_COLOUR="red"), "FXPROFILE_COLOUR: there is no such setting"
        )
        self.assertEqual(
            problem(FXPROFILE_WEB__COLOUR="red"), "web.colour: there is no such setting"
        )

    def test_wrong(self) -> None:
        """A value that cannot be is named by its key."""
        for override, key in (
            ("crunch.processes=many", "crunch.processes"),
            ("crunch.processes=0", "crunch.processes"),
            ("uploads.wait=31", "uploads.wait"),
            ("images.url=http://x/a/", "images.url"),
            ("web.public_url=ftp://x", "web.public_url"),
            ("storage.driver=tape", "storage.driver"),
            ("storage.private_bucket=UPPER", "storage.private_bucket"),
            ("storage.private_bucket=fxprofile-public", "storage.private_bucket"),
            ("database.url=oracle://x", "database.url"),
            ("cache.driver=redis", "cache.url"),
            ("environment=test", "environment"),
            ("web.client_address_depth=-1", "web.client_address_depth"),
            ("images.max_age=-1", "images.max_age"),
            ("images.url={id}", "images.url"),
            ("identity.timeout=0", "identity.timeout"),
            ("identity.jwks_url=https://x/jwks", "identity.issuer"),
            ("aws.region=us east", "aws.region"),
            ("aws.region=us-east-1/", "aws.region"),
            ("storage.kms_key_id=x", "storage.kms_key_id"),
            ("queue.visibility_timeout=1", "queue.visibility_timeout"),
            ("queue.max_receives=0", "queue.max_receives"),
            ("queue.events_url=not a queue", "queue.events_url"),
            ("uploads.per_hour=1000000000000", "uploads.per_hour"),
            ("uploads.max_bytes=0", "uploads.max_bytes"),
            ("uploads.per_hour=-1", "uploads.per_hour"),
            ("crunch.memory=1MiB", "crunch.memory"),
            ("crunch.sandbox=loose", "crunch.sandbox"),
            ("crunch.formats=webp", "crunch.formats"),
            ("crunch.formats=png,png", "crunch.formats"),
            ("crunch.formats=png,gif", "crunch.formats"),
            ('crunch.formats=["png', "crunch.formats"),
            ("crunch.heic=perhaps", "crunch.heic"),
            ("cache.ttl=0", "cache.ttl"),
            ("logging.level=loud", "logging.level"),
            ("monogram.enabled=perhaps", "monogram.enabled"),
            ("web=1", "web"),
            ("secret_bearer_token=two words", "secret_bearer_token"),
            ("secret_bearer_token=Zoë", "secret_bearer_token"),
            ("sentry.dsn=sentry.example", "sentry.dsn"),
            ("sentry.dsn=https://sentry.example/1", "sentry.dsn"),
            ("sentry.dsn=https://key@sentry.example/project", "sentry.dsn"),
            ("identity.timeout=inf", "identity.timeout"),
            ("identity.timeout=1e300", "identity.timeout"),
            ("identity.token_cache_seconds=inf", "identity.token_cache_seconds"),
            ("cache.ttl=1e300", "cache.ttl"),
            ("identity.oauth_url=http://oauth.example:99999/v1", "identity.oauth_url"),
            ("identity.auth_url=http://[auth.example/v1", "identity.auth_url"),
            ("identity.auth_url=http://:9000/v1", "identity.auth_url"),
            ("customs.url=http://user@:80", "customs.url"),
            ("web.public_url=http://api.example:port", "web.public_url"),
            ("images.url=http://images.example:0/{id}", "images.url"),
        ):
            line = problem(override)
            self.assertTrue(line.startswith(key), line)
            self.assertNotIn("\n", line)

    def test_truth(self) -> None:
        """True is no number, though Python takes it for one; nor is it a text."""
        for section, key in (("crunch", "processes"), ("cache", "ttl"), ("web", "listen")):
            line = problem(**{f"FXPROFILE_{section.upper()}": f'{{"{key}": true}}'})
            self.assertTrue(line.startswith(f"{section}.{key}: "), line)
        self.assertTrue(load(environ={"FXPROFILE_MONOGRAM": '{"enabled": true}'}).monogram.enabled)

    def test_dsn(self) -> None:
        """What is taken for the address of a Sentry is one."""
        for dsn in (
            "https://key@sentry.example/1",
            "http://key:old-secret@127.0.0.1:9000/prefix/12",
            "https://key@[::1]:9000/1",
        ):
            settings = load(overrides=[f"sentry.dsn={dsn}"], environ={})
            self.assertEqual(str(Dsn(dsn).project_id), dsn.rpartition("/")[2])
            self.assertEqual(settings.sentry.dsn, SecretStr(dsn))

    def test_more_than_one_value(self) -> None:
        """A list that is none is named by the setting, or by the variable, that holds it."""
        self.assertRegex(problem(FXPROFILE_WEB="x"), r"\AFXPROFILE_WEB: the value must be JSON\Z")
        self.assertRegex(
            problem(FXPROFILE_IDENTITY__DEV__ACCOUNTS="x"),
            r"\AFXPROFILE_IDENTITY__DEV__ACCOUNTS: the value must be JSON\Z",
        )
        self.assertRegex(
            problem("identity.dev.accounts=x"), r"\Aidentity\.dev\.accounts: must be a list\b"
        )
        self.assertRegex(problem("web=x"), r"\Aweb: must be a table\b")
        self.assertRegex(
            problem('identity.dev.accounts=[{"token": "x", "uid": "y"}]'),
            r"\Aidentity\.dev\.accounts\.0\.email: must be set\Z",
        )

    def test_dev_identity(self) -> None:
        """Development accounts are neither for production nor for other machines."""
        self.assertTrue(problem("environment=production").startswith("identity.driver: "))
        self.assertTrue(problem("web.listen=tcp:1111").startswith("web.listen: "))

    def test_only_what_the_role_needs(self) -> None:
        """A role is not asked for what it does not need."""
        load(overrides=["environment=production"], environ={}, role=Role.WORKER)
        load(overrides=["queue.driver=sqs"], environ={}, role=Role.IMAGES)
        line = problem("queue.driver=sqs", role=Role.WORKER)
        self.assertTrue(line.startswith("queue.jobs_url: "), line)

    def test_together(self) -> None:
        """What is right by itself may be wrong with another setting."""
        sqs = ("queue.driver=sqs", "queue.jobs_url=http://q/j", "queue.results_url=http://q/r")
        jwks = ("identity.jwks_url=https://x/jwks", "identity.issuer=https://x")
        for overrides, key in (
            ((*sqs, "queue.events_url=events"), "queue.events_url"),
            ((*sqs, "queue.updates_url=updates"), "queue.updates_url"),
            (sqs[:2], "queue.results_url"),
            (jwks, "identity.audience"),
            (("storage.kms_key_id=x", "storage.encryption=AES256"), "storage.kms_key_id"),
            (("queue.events_url=jobs",), "queue.events_url"),
            (("queue.updates_url=jobs-dead",), "queue.updates_url"),
            (("queue.events_url=a", "queue.updates_url=a"), "queue.updates_url"),
            ((*sqs, "queue.events_url=http://q/j"), "queue.events_url"),
            ((*sqs, "queue.dead_url=http://q/j"), "queue.dead_url"),
        ):
            line = problem(*overrides)
            self.assertTrue(line.startswith((f"{key}: ", f"{key} ")), line)
        load(overrides=sqs, environ={})
        load(overrides=("queue.events_url=events", "queue.updates_url=updates"), environ={})

    def test_local_drivers(self) -> None:
        """What is for one machine is named by the settings that say so, if the role has it."""
        server = "database.url=mysql+pymysql://u:p@db/fxprofile"
        spread = ("storage.driver=s3", "cache.driver=redis", "cache.url=redis://cache")
        sqlite = ["database.url = sqlite", "queue.driver = database"]
        for role, overrides, expected in (
            (Role.WEB, (), ["storage.driver = filesystem", *sqlite, "cache.driver = memory"]),
            (Role.WORKER, (), ["storage.driver = filesystem", *sqlite]),
            (Role.IMAGES, (), ["storage.driver = filesystem"]),
            (Role.COMBINED, spread, sqlite),
            (Role.COMBINED, (*spread, server), []),
        ):
            settings = load(overrides=overrides, environ={}, role=role)
            self.assertEqual(local_drivers(settings, role), expected)

    def test_heic(self) -> None:
        """HEIC needs its decoder, where images are crunched."""
        self.patch(sys, "path", [])
        # Another test may have it loaded already.
        decoder = sys.modules.pop("pillow_heif", None)
        if decoder is not None:
            self.addCleanup(sys.modules.__setitem__, "pillow_heif", decoder)
        self.assertTrue(problem("crunch.heic=true", role=Role.WORKER).startswith("crunch.heic: "))
        self.assertTrue(load(overrides=["crunch.heic=true"], environ={}, role=Role.WEB).crunch.heic)

    def test_loopback(self) -> None:
        """Which endpoints only this machine reaches."""
        for endpoint in (
            "tcp:1:interface=127.0.0.1",
            "tcp:1:interface=127.8.8.8",
            "tcp:1:interface=localhost",
            r"tcp6:1:interface=\:\:1",
            "unix:/run/x",
        ):
            self.assertTrue(is_loopback(endpoint), endpoint)
        for endpoint in (
            "tcp:1",
            "tcp:1:interface=0.0.0.0",
            "tcp:1:interface=127.0.0.1.example.com",
            "tcp:1:interface=127.0.0.1:interface=10.0.0.1",
            "systemd:domain=INET:index=0",
        ):
            self.assertFalse(is_loopback(endpoint), endpoint)


class SecretTests(SynchronousTestCase):
    """Secrets are in no text that leaves the settings."""

    @given(st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=40))
    def test_hidden(self, secret: str) -> None:
        """Neither ``repr`` nor an error quotes a secret."""
        environ = {
            "FXPROFILE_SECRET_BEARER_TOKEN": secret,
            "FXPROFILE_DATABASE__URL": f"mysql+pymysql://u:{secret}@h/d",
            "FXPROFILE_CACHE__URL": f"redis://:{secret}@h",
            "FXPROFILE_SENTRY__DSN": f"https://{secret}@h/1",
        }
        settings = load(environ=environ)
        self.assertNotIn(secret, repr(settings) + str(settings))
        problems, _ = read(environ={"FXPROFILE_DATABASE__URL": f"oracle://u:{secret}@h"})
        problems += read(environ={"FXPROFILE_WEB": secret})[0]
        problems += read(environ={"FXPROFILE_IDENTITY__DEV__ACCOUNTS": f'["{secret}"]'})[0]
        problems += read(overrides=[f"crunch.processes={secret}"], environ={})[0]
        problems += read(overrides=[f"secret_bearer_token:{secret}"], environ={})[0]
        self.assertEqual(len(problems), 5)
        self.assertNotIn(secret, " ".join(problems))

    @given(st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=40))
    def test_traces(self, secret: str) -> None:
        """Nor does the trace of an error, with whatever caused it."""
        sources: tuple[dict[str, Any], ...] = (
            {"environ": {"FXPROFILE_IDENTITY__DEV__ACCOUNTS": f"[{secret}"}},
            {"environ": {"FXPROFILE_DATABASE__URL": secret}},
            {"environ": {"FXPROFILE_CACHE": f'{{"url": {{"{secret}": 1}}}}'}},
            {"environ": {}, "overrides": [f"secret_bearer_token.x={secret}"]},
        )
        for source in sources:
            with self.assertRaises(ConfigError) as caught:
                load(**source)
            trace = traceback.TracebackException.from_exception(caught.exception)
            self.assertNotIn(secret, "".join(trace.format(chain=True)))

    def test_file(self) -> None:
        """Nor what is said of a file that is no TOML."""
        secret = "hunter2hunter2"
        for text in (f'secret_bearer_token = "{secret}', f"secret_bearer_token = {secret}", secret):
            path = Path(self.mktemp())
            path.write_text(text)
            problems, _ = read(config=str(path), environ={})
            self.assertEqual(len(problems), 1)
            self.assertNotIn(secret, problems[0])

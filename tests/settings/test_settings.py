"""Tests of the settings: precedence of sources, validation and error messages."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sentry_sdk.utils import Dsn
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import ConfigError
from fxprofile.settings.endpoints import is_loopback, listener_url
from fxprofile.settings.load import load, read
from fxprofile.settings.model import Role


def problem(*overrides: str, role: Role = Role.COMBINED, **environ: str) -> str:
    """Return the problem of these settings."""
    try:
        load(overrides=overrides, environ=environ, role=role)
    except ConfigError as error:
        return str(error)
    raise AssertionError("the settings are valid")


class SourceTests(SynchronousTestCase):
    """Sources of settings and their precedence."""

    def write(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def test_command_line_over_environment_over_file_over_defaults(self) -> None:
        """The command line overrides the environment, which overrides the file and the defaults."""
        path = self.write("[images]\nmax_age = 1\n[uploads]\nwait = 1\nper_hour = 1\n")
        settings = load(
            config=path,
            environ={"FXPROFILE_UPLOADS__WAIT": "2", "FXPROFILE_UPLOADS__PER_HOUR": "2"},
            overrides=["uploads.per_hour=3"],
        )
        self.assertEqual(
            (settings.images.max_age, settings.uploads.wait, settings.uploads.per_hour), (1, 2, 3)
        )
        self.assertEqual(settings.web.client_address_depth, 0)

    def test_variable_of_a_key_overrides_that_of_its_section(self) -> None:
        """A variable for one key overrides that key in the JSON variable of its section."""
        section = {"FXPROFILE_UPLOADS": '{"wait": 3, "per_hour": 4}'}
        settings = load(environ={"FXPROFILE_UPLOADS__WAIT": "5", **section})
        self.assertEqual((settings.uploads.wait, settings.uploads.per_hour), (5, 4))

    def test_settings_are_immutable(self) -> None:
        """Assigning to a setting raises an error."""
        settings = load(environ={})
        with self.assertRaises(ValueError):
            settings.web.listen = "tcp:1"  # type: ignore[misc]

    def test_unreadable_file_is_named(self) -> None:
        """The error for a file that is missing or is not TOML names the file."""
        self.assertIn("/no/such.toml", self.failing(config="/no/such.toml"))
        path = self.write("[web")
        self.assertIn(path, self.failing(config=path))

    def failing(self, config: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            load(config=config, environ={})
        return str(caught.exception)

    def test_read_lists_every_problem(self) -> None:
        """``read`` returns every problem, not only the first."""
        problems, settings = read(
            overrides=["web.nothing=1", "crunch.processes=0"], environ={"FXPROFILE_NOTHING": "1"}
        )
        self.assertIsNone(settings)
        self.assertEqual(len(problems), 3)

    def test_no_variable_can_crash_a_process(self) -> None:
        """FXPROFILE_CRASH_AT is an unknown name: crash points exist only in the tests."""
        problems, _ = read(environ={"FXPROFILE_CRASH_AT": "store.accept:after"})
        self.assertEqual(problems, ["FXPROFILE_CRASH_AT: there is no such setting"])

    def test_read_lists_combinations_among_valid_sections(self) -> None:
        """An impossible combination is listed although another section is invalid."""
        problems, settings = read(
            overrides=["uploads.wait=77", "x.y=1", "environment=production", "queue.events=none"],
            environ={},
        )
        self.assertIsNone(settings)
        self.assertEqual(
            [line.partition(":")[0] for line in problems],
            ["x.y", "uploads.wait", "identity.driver"],
        )

    def test_sizes_with_units(self) -> None:
        """A size may have a unit, such as 5MiB."""
        settings = load(overrides=["uploads.max_bytes=5MiB", "crunch.memory=2GiB"], environ={})
        self.assertEqual((settings.uploads.max_bytes, settings.crunch.memory), (5 << 20, 2 << 30))

    def test_lists_as_json_or_words(self) -> None:
        """A list in the environment or on the command line may be JSON or words with commas."""
        for text in ("png,webp", "png, webp", '["png", "webp"]'):
            for settings in (
                load(environ={"FXPROFILE_CRUNCH__FORMATS": text}),
                load(overrides=[f"crunch.formats={text}"], environ={}),
            ):
                self.assertEqual(settings.crunch.formats, ("png", "webp"))

    def test_sections_and_accounts_as_json(self) -> None:
        """A section or a list of tables may be JSON in the environment and on the command line."""
        accounts = '[{"token": "carol", "uid": "c", "email": "c@example.com"}]'
        for settings in (
            load(environ={"FXPROFILE_IDENTITY__DEV__ACCOUNTS": accounts}),
            load(overrides=[f"identity.dev.accounts={accounts}"], environ={}),
            load(overrides=[f'identity.dev={{"accounts": {accounts}}}'], environ={}),
        ):
            self.assertEqual([account.uid for account in settings.identity.dev.accounts], ["c"])

    def test_empty_variable_is_ignored_but_not_an_empty_override(self) -> None:
        """An empty variable counts as unset; an empty value on the command line is a value."""
        settings = load(environ={"FXPROFILE_SECRET_BEARER_TOKEN": ""})
        self.assertIsNone(settings.secret_bearer_token)
        settings = load(overrides=["secret_bearer_token="], environ={})
        self.assertEqual(settings.secret_bearer_token, SecretStr(""))

    def test_file_may_be_a_pipe(self) -> None:
        """The settings file may be a pipe, such as a shell's process substitution."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.write(writer, b"[uploads]\nwait = 7\n")
        os.close(writer)
        self.assertEqual(load(config=f"/dev/fd/{reader}", environ={}).uploads.wait, 7)


class ProblemTests(SynchronousTestCase):
    """Error messages: one line that begins with the key."""

    def test_unknown_key_is_named(self) -> None:
        """An unknown key or variable stops the start and is named."""
        self.assertEqual(problem("web.colour=red"), "web.colour: there is no such setting")
        self.assertEqual(problem("colour=red"), "colour: there is no such setting")
        self.assertEqual(
            problem(FXPROFILE_COLOUR="red"), "FXPROFILE_COLOUR: there is no such setting"
        )
        self.assertEqual(
            problem(FXPROFILE_WEB__COLOUR="red"), "web.colour: there is no such setting"
        )
        self.assertEqual(
            problem(FXPROFILE_ENVIRONMENT__NAME="red"),
            "FXPROFILE_ENVIRONMENT__NAME: there is no such setting",
        )
        for key in ("web__listen", "environment.name"):
            self.assertEqual(problem(f"{key}=x"), f"{key}: there is no such setting")

    def test_invalid_value_is_named_by_its_key(self) -> None:
        """The error for an invalid value begins with the key and is one line."""
        for override, key in (
            ("crunch.processes=many", "crunch.processes"),
            ("crunch.processes=0", "crunch.processes"),
            ("uploads.wait=31", "uploads.wait"),
            ("images.url=http://x/a/", "images.url"),
            ("web.public_url=ftp://x", "web.public_url"),
            ("storage.driver=tape", "storage.driver"),
            ("storage.private_bucket=UPPER", "storage.private_bucket"),
            ("storage.private_bucket=fxprofile-public", "storage.public_bucket"),
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
            ("crunch.fit=fill", "crunch.fit"),
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

    def test_booleans_are_not_numbers_or_texts(self) -> None:
        """A boolean is rejected where a number or a text is expected."""
        for section, key in (("crunch", "processes"), ("cache", "ttl"), ("web", "listen")):
            line = problem(**{f"FXPROFILE_{section.upper()}": f'{{"{key}": true}}'})
            self.assertTrue(line.startswith(f"{section}.{key}: "), line)
        self.assertTrue(load(environ={"FXPROFILE_MONOGRAM": '{"enabled": true}'}).monogram.enabled)

    def test_accepted_dsn_is_one_for_sentry(self) -> None:
        """sentry-sdk parses every DSN that the settings accept."""
        for dsn in (
            "https://key@sentry.example/1",
            "http://key:old-secret@127.0.0.1:9000/prefix/12",
            "https://key@[::1]:9000/1",
        ):
            settings = load(overrides=[f"sentry.dsn={dsn}"], environ={})
            self.assertEqual(str(Dsn(dsn).project_id), dsn.rpartition("/")[2])
            self.assertEqual(settings.sentry.dsn, SecretStr(dsn))

    def test_scalar_for_a_section_or_a_list(self) -> None:
        """The error for a scalar, or invalid JSON, says that a table or a list is expected."""
        table = "web: must be a table of settings, which is a JSON object in the environment"
        self.assertEqual(problem("web=x"), table)
        self.assertEqual(problem(FXPROFILE_WEB="x"), table)
        self.assertEqual(problem(FXPROFILE_WEB="{x"), table)
        for text in ("x", "[x", "[" * 100_000):
            self.assertRegex(
                problem(f"identity.dev.accounts={text}"),
                r"\Aidentity\.dev\.accounts: must be a list\b",
            )
            self.assertRegex(
                problem(FXPROFILE_IDENTITY__DEV__ACCOUNTS=text),
                r"\Aidentity\.dev\.accounts: must be a list\b",
            )

    def test_missing_key_of_an_account_is_named(self) -> None:
        """The error for an incomplete account names the missing key with its index."""
        self.assertEqual(
            problem('identity.dev.accounts=[{"token": "x", "uid": "y"}]'),
            "identity.dev.accounts.0.email: must be set",
        )

    def test_development_accounts_need_development_on_loopback(self) -> None:
        """The dev identity is refused in production and on an address that is not loopback."""
        self.assertTrue(problem("environment=production").startswith("identity.driver: "))
        self.assertTrue(problem("web.listen=tcp:1111").startswith("web.listen: "))

    def test_role_is_checked_for_its_own_needs_only(self) -> None:
        """A setting that a role does not use cannot stop it."""
        load(overrides=["environment=production"], environ={}, role=Role.WORKER)
        load(overrides=["queue.driver=sqs"], environ={}, role=Role.IMAGES)
        line = problem("queue.driver=sqs", role=Role.WORKER)
        self.assertTrue(line.startswith("queue.jobs_url: "), line)

    def test_queues_in_memory_are_for_one_process(self) -> None:
        """The combined role has its queues in memory by default, and no other role may."""
        for role, driver in (
            (Role.COMBINED, "memory"),
            (Role.WEB, "database"),
            (Role.WORKER, "database"),
        ):
            self.assertEqual(load(environ={}, role=role).queue.driver, driver)
        for role in (Role.WEB, Role.WORKER):
            line = problem("queue.driver=memory", role=role)
            self.assertTrue(line.startswith("queue.driver: memory "), line)
        load(overrides=["queue.driver=memory"], environ={}, role=Role.IMAGES)

    def test_impossible_combinations(self) -> None:
        """Values that are valid by themselves are refused in an impossible combination."""
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

    def test_production_needs_account_events_or_a_decision(self) -> None:
        """Without account events, production needs queue.events = none, which excludes a queue."""
        overrides = ("environment=production", "identity.driver=fxa")
        self.assertTrue(problem(*overrides, role=Role.WEB).startswith("queue.events_url: "))
        for setting in ("queue.events=none", "queue.events_url=events"):
            load(overrides=(*overrides, setting), environ={}, role=Role.WEB)
        line = problem("queue.events=none", "queue.events_url=events")
        self.assertTrue(line.startswith("queue.events_url: "), line)

    def test_an_image_url_has_its_id_once_in_its_path(self) -> None:
        """The images role can serve the path of every images.url that is accepted."""
        for path in ("{id}", "pics/{id}", "a/{id}.png", "~x_y/{id}"):
            load(overrides=(f"images.url=https://cdn/{path}",), environ={})
        for path in ("a", "{id}/{id}", "å/{id}", "a%20b/{id}", "{x}/{id}"):
            line = problem(f"images.url=https://cdn/{path}")
            self.assertTrue(line.startswith("images.url: must contain {id}"), line)

    def test_public_urls_follow_the_listeners(self) -> None:
        """``web.public_url`` and ``images.url`` default to the addresses of the listeners."""
        settings = load(environ={})
        self.assertEqual(settings.web.public_url, "http://127.0.0.1:1111")
        self.assertEqual(settings.images.url, "http://127.0.0.1:1112/a/{id}")
        moved = ["web.listen=tcp:80:interface=127.0.0.2", "images.listen=tcp:81"]
        settings = load(overrides=moved, environ={})
        self.assertEqual(settings.web.public_url, "http://127.0.0.2:80")
        self.assertEqual(settings.images.url, "http://127.0.0.1:81/a/{id}")
        settings = load(overrides=[*moved, "web.public_url=https://api.example"], environ={})
        self.assertEqual(settings.web.public_url, "https://api.example")

    def test_a_listener_without_a_port_needs_a_url(self) -> None:
        """The web role needs the URL of a listener that has no TCP port; others do not."""
        for key, url in (("web", "public_url"), ("images", "url")):
            for listen in ("unix:/run/x", "tcp:0:interface=127.0.0.1"):
                self.assertEqual(
                    problem(f"{key}.listen={listen}"),
                    f"{key}.listen: has no TCP port from 1 to 65535, so set {key}.{url}",
                )
                load(overrides=[f"{key}.listen={listen}"], environ={}, role=Role.IMAGES)
                known = f"{key}.{url}=https://host/{{id}}"
                load(overrides=[f"{key}.listen={listen}", known], environ={})

    def test_doubts(self) -> None:
        """Missing dead-letter queues and a short visibility timeout are doubts of their roles."""
        sqs = ("queue.driver=sqs", "queue.jobs_url=http://q/j", "queue.results_url=http://q/r")
        short = ("queue.visibility_timeout=10", "crunch.timeout=10.5")
        dead = ["queue.dead_url", "queue.results_dead_url"]
        for role, overrides, expected in (
            (Role.COMBINED, (), []),
            (Role.WEB, sqs, dead),
            (Role.WEB, (*sqs, "queue.dead_url=http://q/d"), dead[1:]),
            (Role.WORKER, sqs, []),
            (Role.WORKER, short, ["queue.visibility_timeout"]),
            (Role.COMBINED, short, ["queue.visibility_timeout"]),
            (Role.WEB, short, []),
        ):
            doubts = load(overrides=overrides, environ={}, role=role).doubts(role)
            self.assertEqual([doubt.partition(":")[0] for doubt in doubts], expected)

    def test_doubts_of_production(self) -> None:
        """In production, what suits development only is a doubt of the roles that use it."""
        overrides = ["environment=production", "identity.driver=fxa", "queue.events=none"]
        account = '[{"token": "t", "uid": "u", "email": "e"}]'
        for role, more, expected in (
            (
                *(Role.WEB, []),
                {
                    *("storage.driver", "database.url", "queue.driver", "cache.driver"),
                    *("secret_bearer_token", "web.public_url"),
                },
            ),
            (
                Role.WEB,
                [
                    *("storage.driver=s3", "secret_bearer_token=x", "web.public_url=https://a"),
                    *("cache.driver=redis", "cache.url=redis://h"),
                    "database.url=mysql+pymysql://h/d",
                    f"identity.dev.accounts={account}",
                ],
                {"identity.dev.accounts"},
            ),
            (Role.IMAGES, [], {"storage.driver"}),
        ):
            settings = load(overrides=[*overrides, *more], environ={}, role=role)
            doubts = settings.doubts(role)
            self.assertEqual({doubt.partition(":")[0] for doubt in doubts}, expected)

    def test_single_host_drivers(self) -> None:
        """The single-host drivers that a role uses are listed as the settings that select them."""
        server = "database.url=mysql+pymysql://u:p@db/fxprofile"
        spread = ("storage.driver=s3", "cache.driver=redis", "cache.url=redis://cache")
        sqlite = ["database.url = sqlite", "queue.driver = database"]
        memory = "queue.driver = memory"
        for role, overrides, expected in (
            (Role.WEB, (), ["storage.driver = filesystem", *sqlite, "cache.driver = memory"]),
            (Role.WORKER, (), ["storage.driver = filesystem", *sqlite]),
            (Role.IMAGES, (), ["storage.driver = filesystem"]),
            (Role.COMBINED, spread, [sqlite[0], memory]),
            (Role.COMBINED, (*spread, "queue.driver=database"), sqlite),
            (Role.COMBINED, (*spread, server), [memory]),
            (Role.COMBINED, (*spread, server, "queue.driver=database"), []),
        ):
            settings = load(overrides=overrides, environ={}, role=role)
            self.assertEqual(settings.single_host_drivers(role), expected)

    def test_a_missing_package_is_named_with_its_extra(self) -> None:
        """A role whose drivers need a package that is not installed does not start."""
        self.patch(sys, "path", [])
        for module in ("botocore", "pillow_heif", "psycopg", "pymysql", "txredisapi"):
            # Another test may have it loaded already.
            if module in sys.modules:
                self.addCleanup(sys.modules.__setitem__, module, sys.modules.pop(module))
        load(overrides=["crunch.heic=true"], environ={}, role=Role.WEB)
        sqs = ("queue.driver=sqs", "queue.jobs_url=http://q/j", "queue.results_url=http://q/r")
        redis = ("cache.driver=redis", "cache.url=redis://h")
        for role, spared, extra, package, overrides in (
            (Role.IMAGES, None, "s3", "botocore", ("storage.driver=s3",)),
            (Role.WORKER, None, "sqs", "botocore", sqs),
            (Role.WEB, Role.WORKER, "redis", "txredisapi", redis),
            (Role.WEB, Role.IMAGES, "mysql", "pymysql", ("database.url=mysql+pymysql://h/d",)),
            (
                *(Role.WORKER, Role.IMAGES, "postgresql", "psycopg"),
                ("database.url=postgresql+psycopg://h/d",),
            ),
            (Role.WORKER, None, "heic", "pillow_heif", ("crunch.heic=true",)),
        ):
            key = overrides[0].partition("=")[0]
            line = f"{key}: needs the package {package}; pip install 'fxprofile[{extra}]'"
            self.assertEqual(problem(*overrides, role=role), line)
            if spared is not None:
                load(overrides=("crunch.heic=false", *overrides), environ={}, role=spared)

    def test_heic_is_accepted_if_its_decoder_is_installed(self) -> None:
        """``crunch.heic`` is true by default exactly if pillow-heif is installed."""
        self.assertIs(load(environ={}).crunch.heic, find_spec("pillow_heif") is not None)

    def test_listener_url(self) -> None:
        """The URL of a listener has its port, and its last interface or the loopback address."""
        for endpoint, url in {
            "tcp:1111": "http://127.0.0.1:1111",
            "tcp:80:interface=": "http://127.0.0.1:80",
            "tcp:80:interface=0.0.0.0:backlog=5": "http://127.0.0.1:80",
            "tcp:backlog=5:port=80:interface=10.0.0.1": "http://10.0.0.1:80",
            "tcp:80:interface=10.0.0.1:interface=localhost": "http://localhost:80",
            "tcp6:80": "http://[::1]:80",
            r"tcp6:80:interface=\:\:": "http://[::1]:80",
            r"tcp6:80:interface=fe80\:\:1": "http://[fe80::1]:80",
            "ssl:443:privateKey=a.pem": "https://127.0.0.1:443",
            "tcp:0": None,
            "tcp:65536": None,
            "tcp:http": None,
            "unix:/run/80": None,
            "systemd:domain=INET:index=0": None,
        }.items():
            self.assertEqual(listener_url(endpoint), url, endpoint)

    def test_is_loopback(self) -> None:
        """An endpoint is loopback only if every interface it names is, or it is a Unix socket."""
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
    """Secrets do not appear in any text that the settings produce."""

    @given(st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=40))
    def test_neither_repr_nor_error_quotes_a_secret(self, secret: str) -> None:
        """Neither ``repr`` of the settings nor an error message quotes a secret."""
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
        problems += read(overrides=[f"secret_bearer_token:{secret}=="], environ={})[0]
        self.assertEqual(len(problems), 6)
        self.assertNotIn(secret, " ".join(problems))

    @given(st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=40))
    def test_traceback_does_not_quote_a_secret(self, secret: str) -> None:
        """The traceback of an error, with its causes, does not quote a secret."""
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

    def test_malformed_file_is_not_quoted(self) -> None:
        """The error for a file that is not TOML does not quote the file."""
        secret = "hunter2hunter2"
        for text in (f'secret_bearer_token = "{secret}', f"secret_bearer_token = {secret}", secret):
            path = Path(self.mktemp())
            path.write_text(text)
            problems, _ = read(config=str(path), environ={})
            self.assertEqual(len(problems), 1)
            self.assertNotIn(secret, problems[0])

"""Tests of ``etc/``: what :mod:`tests.support.compose` does not show by running it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from fxprofile import __version__
from fxprofile.settings.load import load
from fxprofile.settings.model import ENVIRONMENT_PREFIX, Role
from tests.support.compose import FOLDER, ROOT, compose_file, entry_point
from tests.support.servers.local import free_port

SCRIPTS = Path(sysconfig.get_path("scripts"))

#: The services that need no health check: one does nothing, the other ends.
WITHOUT_HEALTH = {"pod", "setup"}


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile, each with its arguments in one line."""
    text = re.sub(r"^ *#.*\n", "", (FOLDER / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


class ContainerfileTests(SynchronousTestCase):
    """``Containerfile`` and ``.dockerignore``."""

    def of(self, word: str) -> list[str]:
        """Return the arguments of every instruction of a kind."""
        return [rest for found, rest in instructions() if found == word]

    def sources(self) -> Iterator[str]:
        """Yield each path of the repository that is copied into the image."""
        for rest in self.of("COPY"):
            words = shlex.split(rest)
            if not words[0].startswith("--from"):
                yield from words[:-1]

    def test_hadolint(self) -> None:
        """hadolint finds nothing."""
        done = subprocess.run(
            [SCRIPTS / "hadolint", "--failure-threshold=style", FOLDER / "Containerfile"],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_copied_paths_exist(self) -> None:
        """Each copied path exists, and the build context has these paths and no other."""
        self.assertIn("fxprofile", list(self.sources()))
        for path in self.sources():
            self.assertTrue((ROOT / path).exists(), path)
        allowed = [
            line.removeprefix("!")
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        ]
        self.assertEqual(sorted(allowed), sorted(self.sources()))
        self.assertFalse([a for a in allowed if fnmatch.fnmatch(".git", a)])

    def test_what_runs_is_not_root(self) -> None:
        """The last stage is another one than that of the build, and ends as a numbered user."""
        self.assertEqual(len(self.of("FROM")), 2)
        last = max(i for i, (word, _) in enumerate(instructions()) if word == "FROM")
        (user,) = [rest for word, rest in instructions()[last:] if word == "USER"]
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")

    def test_packages_have_hashes(self) -> None:
        """Each installation of packages requires hashes, or takes nothing from an index."""
        commands = [c for rest in self.of("RUN") for c in rest.split("&&") if "pip " in c]
        self.assertEqual(len(commands), 4)
        for command in commands:
            self.assertRegex(command, r"--require-hashes|--no-deps", command)
        self.assertRegex(next(c for c in commands if "pip wheel" in c), "--no-build-isolation")
        build = (ROOT / "requirements-build.lock").read_text()
        self.assertRegex(build, r"(?m)^setuptools==\S+ \\\n    --hash=sha256:")

    def test_base_has_a_version(self) -> None:
        """The base image is a version of Python that the package supports, and not ``latest``."""
        (base,) = [rest for rest in self.of("ARG") if rest.startswith("BASE=")]
        version = re.fullmatch(r"BASE=docker\.io/library/python:(\d+\.\d+)-slim-\w+", base)
        assert version is not None
        self.assertIn(f':: {version[1]}"', (ROOT / "setup.py").read_text())

    def test_commands_exist(self) -> None:
        """The program of the entry point is a script of the environment, with these options."""
        words = [*entry_point(), *json.loads(self.of("CMD")[0])]
        self.assertTrue((SCRIPTS / words[0]).exists())
        self.assertEqual(words[1:], ["-n", "--pidfile=", "fxprofile", "--role=combined"])
        (check,) = self.of("HEALTHCHECK")
        self.assertTrue(check.endswith('["python", "/opt/fxprofile/healthcheck.py"]'))
        self.assertIn(
            "etc/containers/healthcheck.py /opt/fxprofile/healthcheck.py", self.of("COPY")
        )

    def test_the_version_names_the_commit(self) -> None:
        """A build without the history writes the given commit into ``version.json``."""
        built = Path(self.mktemp()).absolute()
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_py", f"--build-lib={built}"],
            cwd=ROOT,
            env={**os.environ, "COMMIT": "0123abc", "SOURCE_URL": "https://example.com/"},
            capture_output=True,
            check=True,
        )
        found = json.loads((built / "fxprofile/version.json").read_text())
        self.assertEqual((found["version"], found["commit"]), (__version__, "0123abc"))
        self.assertEqual(found["source"], "https://example.com/")

    def test_health_check(self) -> None:
        """The health check fails if nothing listens, and names the ports."""
        port = free_port()
        done = subprocess.run(
            [sys.executable, FOLDER / "healthcheck.py", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (1, f"no admin listener at {port}\n"))


class ComposeTests(SynchronousTestCase):
    """``compose.yaml`` and what it mounts."""

    def setUp(self) -> None:
        self.file: dict[str, Any] = compose_file()
        self.services: dict[str, Any] = self.file["services"]

    def test_schema(self) -> None:
        """The file has the form of the Compose specification."""
        done = subprocess.run(
            [
                *(SCRIPTS / "check-jsonschema", "--builtin-schema=vendor.compose-spec"),
                FOLDER / "compose.yaml",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_services_are_confined(self) -> None:
        """Every service is unprivileged, on a read-only file system, with a versioned image."""
        for name, service in self.services.items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)
            self.assertNotIn(service["user"].partition(":")[0], ("0", "root"), name)
            self.assertNotIn("privileged", service, name)
            self.assertRegex(service["image"], r":v?\d+\.\d+", name)
            for port in service.get("ports", ()):
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_stand_in_of_aws_is_the_one_of_the_tests(self) -> None:
        """The stand-in of S3 and SQS is of the minor version with which the tests are run."""
        tested = re.search(
            r"^moto==(\d+\.\d+)\.", (ROOT / "requirements-dev.lock").read_text(), re.M
        )
        assert tested is not None
        self.assertIn(f"/moto:{tested[1]}.", self.services["aws"]["image"])

    def test_one_image_of_this_version(self) -> None:
        """All roles have the same image, which is built once and has the version of the package."""
        ours = {n for n, s in self.services.items() if s["image"] == f"fxprofile:{__version__}"}
        self.assertEqual(ours, {"pod", "setup", *Role} - {"combined"})
        self.assertEqual([n for n, s in self.services.items() if "build" in s], ["pod"])
        build = self.services["pod"]["build"]
        context = (FOLDER / build["context"]).resolve()
        self.assertEqual(context, ROOT)
        self.assertTrue((context / build["dockerfile"]).exists())

    def test_mounted_paths_exist(self) -> None:
        """Each mounted path exists and is read-only, and each named volume is declared."""
        mounted = 0
        for name, service in self.services.items():
            for volume in service.get("volumes", ()):
                source, _, rest = volume.partition(":")
                if source.startswith("."):
                    mounted += 1
                    self.assertTrue((FOLDER / source).exists(), volume)
                    self.assertTrue(rest.endswith(":ro"), volume)
                else:
                    self.assertIn(source, self.file["volumes"], name)
        self.assertEqual(mounted, 4)

    def test_dependencies_can_be_met(self) -> None:
        """Each dependency is a service, and one that must be healthy has a health check."""
        for name, service in self.services.items():
            checked = "test" in service.get("healthcheck", {})
            self.assertEqual(checked, name not in WITHOUT_HEALTH, name)
            for other, how in service.get("depends_on", {}).items():
                self.assertIn(other, self.services, name)
                if how["condition"] == "service_healthy":
                    self.assertIn("test", self.services[other]["healthcheck"], name)

    def test_settings_are_valid(self) -> None:
        """The environment of each role has only settings that exist, with valid values."""
        for role in ("web", "worker", "images"):
            service = self.services[role]
            self.assertEqual(service["command"], [f"--role={role}"])
            names = [n for n in service["environment"] if n.startswith(ENVIRONMENT_PREFIX)]
            self.assertGreater(len(names), 4)
            settings = load(role=Role(role), environ=service["environment"])
            self.assertEqual(settings.storage.driver, "s3")
            self.assertEqual(settings.queue.driver, "sqs")
            # Only the web role has the password of the database.
            self.assertEqual("FXPROFILE_DATABASE__URL" in names, role == "web")

    def test_nginx_has_the_edited_file(self) -> None:
        """Each edit of nginx's file applies, and leaves no host name of the examples and no TLS."""
        (script,) = self.services["nginx"]["command"]
        expressions = re.findall(r"-e '([^']+)'", script)
        self.assertEqual(len(expressions), 4)
        text = (ROOT / "etc/nginx/fxprofile.conf").read_text()
        edited = text
        for expression in expressions:
            done = subprocess.run(
                ["sed", "-e", expression], input=edited, capture_output=True, text=True, check=True
            )
            self.assertNotEqual(done.stdout, edited, expression)
            edited = done.stdout
        code = re.sub(r"#.*", "", edited)
        self.assertNotRegex(code, r"example\.|ssl|443")
        self.assertEqual(code.count("listen 8080;"), 2)

    def test_grafana_finds_the_dashboard(self) -> None:
        """Grafana's provisioning names the Prometheus of the file and the dashboard's folder."""
        provisioning = ROOT / "etc/grafana/provisioning"
        source = yaml.safe_load((provisioning / "datasources/fxprofile.yaml").read_text())
        (source,) = source["datasources"]
        self.assertEqual((source["type"], source["url"]), ("prometheus", "http://pod:9090"))
        self.assertIn("127.0.0.1:9090:9090", self.services["pod"]["ports"])
        provider = yaml.safe_load((provisioning / "dashboards/fxprofile.yaml").read_text())
        folder = provider["providers"][0]["options"]["path"]
        grafana = self.services["grafana"]
        mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
        self.assertEqual(mounts["../grafana/fxprofile.json"], f"{folder}/fxprofile.json")
        self.assertEqual(mounts["../grafana/provisioning"], "/etc/grafana/provisioning")
        home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertEqual(home, f"{folder}/fxprofile.json")
        (variable,) = json.loads((ROOT / "etc/grafana/fxprofile.json").read_text())["templating"][
            "list"
        ]
        self.assertEqual((variable["type"], variable["query"]), ("datasource", "prometheus"))


class EtcTests(SynchronousTestCase):
    """``etc/README.md``."""

    def test_every_file_is_listed(self) -> None:
        """Every file in ``etc/`` is listed with its purpose, and every listed file exists."""
        etc = ROOT / "etc"
        rows = re.findall(r"^\| `([^`]+)` \|", (etc / "README.md").read_text(), re.MULTILINE)
        files = {
            str(path.relative_to(etc))
            for path in etc.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        self.assertEqual(sorted(rows), sorted(files - {"README.md"}))

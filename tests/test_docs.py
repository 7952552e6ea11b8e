"""Tests of the documentation: what it names exists, and it builds as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import click
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.admin.main import cli
from fxprofile.settings.load import read
from fxprofile.settings.model import ENVIRONMENT_PREFIX, Role, Settings
from fxprofile.tap import Options
from tests.settings.test_example import keys_of
from tests.test_monitoring import known

ROOT = Path(fxprofile.__file__).parent.parent
DOCS = (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("[A-Z]*.md"))

#: The folders that a path may begin at: docs/architecture.md leaves out ``fxprofile/``, and
#: docs/crunching.md ``fxprofile/crunch/``.
STARTS = (ROOT, ROOT / "fxprofile", ROOT / "fxprofile/crunch")
TOPS = sorted({path.name for start in STARTS for path in start.iterdir() if path.is_dir()})

_PATH = re.compile(rf"(?<![\w./~-])(?:{'|'.join(map(re.escape, TOPS))})/[\w./@-]*\w")
_MODULE = re.compile(
    r"(?:python -m |trial |TESTS=|`)((?:fxprofile(?!\.toml|\.conf)|tests|benchmarks)(?:\.[a-z_]+)+)"
)
#: In code font, and no settings.
FILE_NAMES = {"web.env", "web.json", "worker.json", "images.json"}

#: Variables that are not settings of the service.
OTHER_VARIABLES = {
    "FXPROFILE_SECTION__KEY",
    "FXPROFILE_KEY",
    "FXPROFILE_CRASHES",
    "FXPROFILE_MUTANTS",
}

#: What a block of shell may call.
PROGRAMS = {
    *("fxprofile-admin", "admin", "twistd", "pip", "make", "python3", "moto_server", "mkdocs"),
    *(
        "apt-get",
        "cat",
        "cd",
        "cp",
        "curl",
        "echo",
        "grep",
        "id",
        "install",
        "kill",
        "jobs",
        "ln",
        "mkdir",
    ),
    *("nginx", "openssl", "runuser", "sed", "sleep", "sudo", "systemctl", "journalctl", "useradd"),
    *("mariadb-dump", "pg_dump", "psql", "sqlite3", "rsync", "docker", "podman", "rclone"),
    *("mariadb", "mariadb-admin", "mariadb-install-db", "mariadbd", "redis-server", "ssh", "chown"),
    *("chmod", "mv", "rm"),
    *("alias", "done", "export", "for", "set", "until", "wait", "true", ".", "&", "aws"),
}

_SETTING = re.compile(r"`((?:[a-z]+\.)+[a-z_]+)(?: = [^`]+|=[^`]+)?`")
_VARIABLE = re.compile(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+\b")
_ENDPOINT = re.compile(r"\b(GET|POST|DELETE) (/v1/[\w/{}:.-]*|/__\w+__|/openapi\.json)")
_COMMAND = re.compile(
    r"(?:\bfxprofile-admin|(?<=`)admin) ((?:[a-z][a-z-]*[ \n]?|--[a-z0-9-]+(?:=\S+)? ?)+)"
)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


class DocumentedPathsTests(SynchronousTestCase):
    """Files and modules that ``docs/``, ``README.md`` and ``CONTRIBUTING.md`` name."""

    def found(self, pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
        """Yield each match of a pattern, with the document that it is in."""
        for document in DOCS:
            for match in pattern.finditer(document.read_text()):
                yield document, match[match.lastindex or 0]

    def test_paths_exist(self) -> None:
        """Every path in the documentation that begins with a folder of the project exists."""
        paths = list(self.found(_PATH))
        self.assertGreater(len(paths), 60)
        missing = [
            f"{document.name}: {path}"
            for document, path in paths
            if not path.startswith("var/") and not any((start / path).exists() for start in STARTS)
        ]
        self.assertEqual(missing, [])

    def test_modules_exist(self) -> None:
        """Every module that a command or a name in the documentation refers to exists."""
        modules = list(self.found(_MODULE))
        self.assertGreater(len(modules), 3)
        for document, name in modules:
            self.assertIsNotNone(find_spec(name), f"{document.name}: {name}")

    def test_links_lead_to_files(self) -> None:
        """Every relative link in the documentation leads to a file."""
        links = list(self.found(_LINK))
        self.assertGreater(len(links), 8)
        for document, target in links:
            self.assertTrue((document.parent / target).exists(), f"{document.name}: {target}")


def hook() -> ModuleType:
    """Return the hook of MkDocs that writes the reference."""
    spec = spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FormTests(SynchronousTestCase):
    """Pages that have a form of their own."""

    def test_decisions(self) -> None:
        """Each decision has its context, the choice, the alternatives and the consequence."""
        decisions = list((ROOT / "docs/decisions").glob("0*.md"))
        self.assertGreater(len(decisions), 6)
        for path in decisions:
            parts = re.findall(r"^## (\w+)$", path.read_text(), re.MULTILINE)
            expected = ["Context", "Choice", "Alternatives", "Consequence"]
            self.assertEqual(parts, expected, path.name)

    def test_readme(self) -> None:
        """README.md fits on a screen, and each of its figures is on the page that it links to."""
        text = (ROOT / "README.md").read_text()
        self.assertLess(len(text.splitlines()), 55)
        points = re.findall(r"^- (.*?)\]\((\S+)\)", text, re.MULTILINE | re.DOTALL)
        figures = [
            (figure, page) for point, page in points for figure in re.findall(r"\d[\d.,]*\d", point)
        ]
        self.assertGreater(len(figures), 5)
        for figure, page in figures:
            self.assertRegex((ROOT / page).read_text(), rf"\b{re.escape(figure)}\b", page)

    def test_extras(self) -> None:
        """Every extra that README.md and the documentation name exists, and README.md names all."""
        setup = (ROOT / "setup.py").read_text()
        extras = set(
            re.findall(r'^        "(\w+)": ', setup[setup.index("extras_require") :], re.M)
        )
        for document in DOCS:
            for names in re.findall(r"(?:fxprofile|'\.)\[([a-z0-9,]+)\]", document.read_text()):
                self.assertLessEqual(set(names.split(",")), extras, document.name)
        (named, others) = re.findall(
            r"'fxprofile\[(\S+)\]'\s+# others: (.*)$", (ROOT / "README.md").read_text(), re.M
        )[0]
        named = {*named.split(","), *others.split(", ")}
        self.assertEqual(named, extras - {"dev", "fuzz"})

    def test_common_questions(self) -> None:
        """There are at least 20 common questions, and each has a link to its answer."""
        text = (ROOT / "docs/how-to/index.md").read_text()
        rows = re.findall(r"^\| ([^|]+[?.]) \| (.+) \|$", text, re.MULTILINE)
        self.assertGreaterEqual(len(rows), 20)
        for question, answer in rows:
            self.assertRegex(answer, r"\]\(\S+\)", question)


class DocumentedNamesTests(SynchronousTestCase):
    """Settings, endpoints, commands, metrics, errors and log fields that the pages name."""

    def found(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the groups of each match of a pattern, with the name of the document."""
        for document in DOCS:
            for match in pattern.finditer(document.read_text()):
                yield document.name, match.groups() or (match[0],)

    def test_settings_exist(self) -> None:
        """Every setting in code font is a setting, and every variable is that of one."""
        settings = set(keys_of(Settings))
        # A section is named where all of its settings are meant.
        sections = {key.rpartition(".")[0] for key in settings}
        named = [
            (document, key)
            for document, (key,) in self.found(_SETTING)
            if key.partition(".")[0] in sections and key not in FILE_NAMES
        ]
        self.assertGreater(len(named), 100)
        self.assertEqual([pair for pair in named if pair[1] not in settings], [])
        variables = {ENVIRONMENT_PREFIX + key.upper().replace(".", "__") for key in settings}
        for document, (name,) in self.found(_VARIABLE):
            if name not in OTHER_VARIABLES:
                self.assertIn(name, variables, document)

    def test_endpoints_exist(self) -> None:
        """Every endpoint that a page names is in the OpenAPI document."""
        template = re.compile(r"\{\w+\}|<\w+>|\bID\b|\bUID\b|(?<=/)[0-9a-f]{32}\b|\{c\}")
        endpoints = {
            (operation.method, template.sub("{}", operation.path))
            for operation in hook().operations()
        }
        named = list(self.found(_ENDPOINT))
        self.assertGreater(len(named), 25)
        for document, (method, path) in named:
            self.assertIn((method, template.sub("{}", path.rstrip(".:"))), endpoints, document)

    def test_commands_exist(self) -> None:
        """Every ``fxprofile-admin`` command that a page names exists, with its options."""
        named = list(self.found(_COMMAND))
        self.assertGreater(len(named), 25)
        for document, (text,) in named:
            command: click.Command = cli
            options: set[str] = {"--help"}
            for word in text.split():
                options |= {name for option in command.params for name in option.opts}
                if word.startswith("--"):
                    self.assertIn(word.partition("=")[0], options, f"{document}: {text}")
                elif word in getattr(command, "commands", {}):
                    command = command.commands[word]
                else:
                    # Further words belong to the sentence, or are arguments.
                    self.assertIsNot(command, cli, f"{document}: {text}")
                    break

    def test_make_targets_exist(self) -> None:
        """Every ``make`` command in a code block or in code font has a target in the Makefile."""
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = list(self.found(re.compile(r"(?:`|^ {4}|^)make ([a-z-]+)", re.MULTILINE)))
        self.assertGreater(len(named), 10)
        for document, (target,) in named:
            self.assertIn(target, targets, document)

    def test_options_of_the_daemon_exist(self) -> None:
        """Every ``twistd fxprofile`` command has options that exist."""
        options = {f"--{name}" for name in Options().longOpt} | {"--no-save"}
        options |= {name.rstrip("=") for name in options}
        named = list(self.found(re.compile(r"\btwistd(?: -n)? fxprofile((?:[ \t]+--\S+)*)")))
        self.assertGreater(len(named), 5)
        for document, (arguments,) in named:
            for word in re.findall(r"--[a-z]+", arguments):
                self.assertIn(word, options, document)

    def test_metrics_exist(self) -> None:
        """Every metric that a page names exists."""
        # A histogram may be named without the suffixes of its series.
        names = {*known(), *(name.removesuffix("_bucket") for name in known())}
        for document, (name,) in self.found(re.compile(r"\bfxprofile_[a-z_]+\b")):
            self.assertIn(name, names, document)

    def blocks(self, language: str = "sh") -> Iterator[tuple[str, str]]:
        """Yield each block that is marked as of a language, with the name of its document."""
        block = re.compile(rf"^( *)```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
        for document, (indent, text) in self.found(block):
            yield document, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)

    def test_settings_blocks_are_valid(self) -> None:
        """Every block that is marked ``toml`` has settings that exist, with valid values."""
        blocks = list(self.blocks("toml"))
        self.assertGreater(len(blocks), 3)
        for document, block in blocks:
            path = Path(self.mktemp())
            path.write_text(block)
            # The images role needs no other setting.
            problems, _ = read(config=str(path), environ={}, role=Role.IMAGES)
            self.assertEqual(problems, [], document)

    def test_shell_blocks_are_shell(self) -> None:
        """Every block that is marked ``sh`` is accepted by a shell."""
        for document, block in self.blocks():
            done = subprocess.run(
                ["sh", "-n"], input=block, capture_output=True, text=True, check=False
            )
            self.assertEqual(done.returncode, 0, f"{document}: {done.stderr}{block}")

    def test_shell_blocks_have_known_commands(self) -> None:
        """Every command in a block that is marked ``sh`` is one of the system or of the service."""
        for document, block in self.blocks():
            whole = re.sub(
                r"<<'?(\w+)'?(.*?)\n.*?\n\1$", r"\2", block, flags=re.MULTILINE | re.DOTALL
            )
            whole = re.sub(r"\\\n|'[^']*'|\"[^\"]*\"", " ", whole)
            for line in re.split(r"\n|;|&&|\|\|?|\bdo\b|\$\(", whole):
                words = [word for word in line.split() if "=" not in word]
                if not words or words[0].startswith(("#", "-")):
                    continue
                name = re.sub(r"^(/opt/fxprofile[^/]*|\.venv)/bin/", "", words[0].strip(")"))
                self.assertIn(name, PROGRAMS, f"{document}: {line}")


class SiteTests(SynchronousTestCase):
    """The site that ``make docs`` builds."""

    def test_site_builds_without_warnings(self) -> None:
        """
        Every link and anchor leads somewhere, every page is in the navigation of ``mkdocs.yml``,
        and no list or table is shown as text.
        """
        site = Path(self.mktemp()).absolute()
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
        done = subprocess.run(
            [*command, str(site)],
            cwd=ROOT,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        pages = list(site.rglob("*.html"))
        self.assertGreater(len(pages), 10)
        for page in pages:
            text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
            for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
                self.assertIsNone(
                    re.search(r"^\s*([-*] |\d+\. |\|)", paragraph, re.MULTILINE),
                    f"{page.parent.name}: {paragraph:.200}",
                )

"""Tests that what the documentation says to add to the settings file works there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from twisted.trial.unittest import TestCase

from fxprofile.settings.load import load
from fxprofile.settings.model import Role
from tests.support.daemon import Daemon

ROOT = Path(__file__).parents[2]

#: What ``web.env`` has, according to the documentation.
WEB_ENVIRONMENT = {
    "FXPROFILE_DATABASE__URL": "mysql+pymysql://fxprofile:PASSWORD@db/fxprofile",
    "FXPROFILE_SECRET_BEARER_TOKEN": "token",
    "FXPROFILE_CACHE__URL": "redis://:PASSWORD@cache:6379/0",
}


def production_file() -> str:
    """Return ``etc/fxprofile.toml`` with the lines that docs/operations.md adds to it."""
    text = (ROOT / "docs/operations.md").read_text()
    lines = re.search(r"```toml\n( +environment = .*?)\n *```", text, re.DOTALL)
    assert lines is not None
    return (ROOT / "etc/fxprofile.toml").read_text() + textwrap.dedent(lines[1]) + "\n"


class OneHostTests(TestCase):
    """The settings file of docs/how-to/one-host.md."""

    def test_it_serves_a_single_host(self) -> None:
        """The combined role accepts it; all that it warns of is that drivers serve one host."""
        text = (ROOT / "docs/how-to/one-host.md").read_text()
        block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
        assert block is not None
        path = Path(self.mktemp())
        path.write_text(block[1])
        environ = {"FXPROFILE_SECRET_BEARER_TOKEN": "token"}
        settings = load(config=str(path), environ=environ, role=Role.COMBINED)
        doubts = settings.doubts(Role.COMBINED)
        self.assertEqual([d for d in doubts if "serves a single host only" not in d], [])


class ConfiguredDaemon(Daemon):
    """A daemon that reads ``fxprofile.toml`` in its directory."""

    def command(self) -> list[str]:
        return [*super().command(), "--config=fxprofile.toml"]


class ProductionFileTests(TestCase):
    """The shipped settings file with the lines that docs/operations.md adds."""

    def test_every_role_accepts_it_without_doubts(self) -> None:
        """With the documented environment, no role finds a problem or a doubtful setting."""
        path = Path(self.mktemp())
        path.write_text(production_file())
        for role in (Role.WEB, Role.WORKER, Role.IMAGES):
            environ = WEB_ENVIRONMENT if role is Role.WEB else {}
            settings = load(config=str(path), environ=environ, role=role)
            self.assertEqual(settings.doubts(role), [], role)

    async def test_a_role_starts_with_it(self) -> None:
        """The images role starts with the file, and serves the default avatar."""
        daemon = ConfiguredDaemon(role="images", preloaded=True)
        (daemon.directory / "fxprofile.toml").write_text(production_file())
        async with daemon:
            self.assertNotIn("Doubtful", daemon.output)
            self.assertIn("images https://images.example.net/a/{id}", daemon.output)

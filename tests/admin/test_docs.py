"""``docs/admin.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.admin.import_fxa.command import SOURCE_VARIABLE
from fxprofile.admin.import_fxa.rows import Fate
from fxprofile.admin.main import cli
from fxprofile.admin.shared.commands import common_options


class DocsTests(SynchronousTestCase):
    """The documentation names every command, option and fate."""

    def setUp(self) -> None:
        self.text = (Path(fxprofile.__file__).parent.parent / "docs/admin.md").read_text()
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)
        self.sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    def commands(self) -> Iterator[tuple[str, Any]]:
        """Yield each command with the section that it belongs to."""
        for name, command in cli.commands.items():
            yield name, command
            for below in getattr(command, "commands", {}).values():
                yield name, below

    def test_every_command_has_a_section(self) -> None:
        """Every command has a section, and there are no other sections."""
        self.assertEqual(
            set(self.sections) - {"What all commands have in common"}, set(cli.commands)
        )

    def test_every_option_is_documented(self) -> None:
        """Every option is in the section of its command or in the common section."""
        common = {name for option in common_options() for name in option.opts}
        for name in common:
            self.assertIn(f"`{name}", self.sections["What all commands have in common"])
        for section, command in self.commands():
            for option in command.params:
                for name in (*option.opts, *option.secondary_opts):
                    if name.startswith("--") and name not in common:
                        self.assertIn(name, self.sections[section], command.name)

    def test_every_fate_of_an_import_is_documented(self) -> None:
        """Every fate of an import is explained."""
        for fate in Fate:
            self.assertIn(f"`{fate}`", self.sections["import-fxa"])
        self.assertIn(SOURCE_VARIABLE, self.sections["import-fxa"])

"""The large commands are subpackages that stand apart."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.test_layers import imports_of, modules

SUBPACKAGES = ("admin/import_fxa", "admin/provision")


class SubpackagesTests(SynchronousTestCase):
    """``import_fxa`` and ``provision``."""

    def test_only_the_command_line_imports_a_subpackage(self) -> None:
        """Apart from ``admin.main``, a module of a subpackage is imported only by its siblings."""
        for name, path in modules():
            for imported in imports_of(path):
                for package in SUBPACKAGES:
                    if imported.startswith(f"fxprofile.{package.replace('/', '.')}."):
                        allowed = name.startswith(f"{package}/") or name == "admin/main"
                        self.assertTrue(allowed, f"{name} imports {imported}")

    def test_a_subpackage_does_not_import_other_commands(self) -> None:
        """Within ``admin``, a subpackage imports only itself and ``shared``."""
        for name, path in modules():
            for package in SUBPACKAGES:
                if name.startswith(f"{package}/"):
                    for imported in imports_of(path):
                        within = imported.removeprefix("fxprofile.").replace(".", "/") + "/"
                        if within.startswith("admin/"):
                            allowed = within.startswith((f"{package}/", "admin/shared/"))
                            self.assertTrue(allowed, f"{name} imports {imported}")

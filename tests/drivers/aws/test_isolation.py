"""Tests of what the AWS client imports."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws import client
from tests.test_layers import imports_of

ALLOWED = ("fxprofile.drivers.aws.client.", "fxprofile.deferreds.")


class IsolationTests(SynchronousTestCase):
    def test_the_client_needs_nothing_of_the_service(self) -> None:
        """The client imports only itself and fxprofile.deferreds, so it can be released alone."""
        modules = sorted(Path(client.__file__).parent.glob("*.py"))
        self.assertIn("call.py", [path.name for path in modules])
        for path in modules:
            for imported in imports_of(path):
                own = imported.split(".")[0] != "fxprofile" or imported.startswith(ALLOWED)
                self.assertTrue(own, f"{path.name} imports {imported}")

"""Tests of the imports of the AWS client."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile import deferreds
from fxprofile.drivers.aws import client
from tests.test_layers import imports_of


class IsolationTests(SynchronousTestCase):
    def test_the_client_needs_nothing_of_the_service(self) -> None:
        """The client imports only itself and fxprofile.deferreds, so it can be released alone."""
        for package, allowed in (
            (client, ("fxprofile.drivers.aws.client.", "fxprofile.deferreds.")),
            (deferreds, ("fxprofile.deferreds.",)),
        ):
            modules = sorted(Path(package.__file__).parent.glob("*.py"))
            self.assertGreater(len(modules), 5)
            for path in modules:
                for imported in imports_of(path):
                    own = imported.split(".")[0] != "fxprofile" or imported.startswith(allowed)
                    self.assertTrue(own, f"{path.name} imports {imported}")

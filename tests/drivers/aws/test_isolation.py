"""Tests of the imports of the AWS client."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile import deferreds, http_client
from fxprofile.drivers.aws import client
from tests.test_layers import imports_of


class IsolationTests(SynchronousTestCase):
    def test_the_client_needs_nothing_of_the_service(self) -> None:
        """The client imports only itself, the HTTP client and fxprofile.deferreds."""
        below = ("fxprofile.http_client.", "fxprofile.deferreds.")
        for package, allowed in (
            (client, ("fxprofile.drivers.aws.client.", *below)),
            (http_client, below),
            (deferreds, ("fxprofile.deferreds.",)),
        ):
            modules = sorted(Path(package.__file__).parent.glob("*.py"))
            self.assertGreater(len(modules), 5)
            for path in modules:
                for imported in imports_of(path):
                    own = imported.split(".")[0] != "fxprofile" or imported.startswith(allowed)
                    self.assertTrue(own, f"{path.name} imports {imported}")

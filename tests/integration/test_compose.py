"""Test of ``etc/containers/compose.yaml``: its services run as plain processes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.compose import Topology, missing_program, try_it


class ComposeTests(SynchronousTestCase):
    """The services of the file."""

    skip = missing_program()

    def test_a_picture_is_uploaded_through_nginx(self) -> None:
        """
        With its commands, environment, dependencies and health checks, every service becomes
        healthy, a picture is uploaded and fetched through nginx, and Prometheus scrapes all roles.
        """
        topology = Topology()
        self.addCleanup(topology.down)
        lines: list[str] = []
        try_it(topology, lines.append)
        self.assertIn("nginx is healthy", lines)

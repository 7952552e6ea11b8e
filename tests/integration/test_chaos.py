"""
A sample of the faults between a daemon and its servers; ``make chaos`` injects them all.
"""

from __future__ import annotations

from unittest import SkipTest

from twisted.trial.unittest import TestCase

from tests.integration.chaos import GOOD, RECOVERY, World
from tests.integration.client import PATIENCE
from tests.support.proxy import Fault
from tests.support.servers import mariadb, redis

#: Seconds that a fault lasts.
SECONDS = 2

#: Each pair of services is at fault at the same time.
FAULTS = (
    {"S3": Fault.HANG, "Redis": Fault.CUT},
    {"SQS": Fault.CORRUPT, "oauth": Fault.SLOW},
    {"mariadb": Fault.RESET},
)


class ChaosTests(TestCase):
    """One daemon in the combined role."""

    timeout = 4 * PATIENCE

    def setUp(self) -> None:
        for server in (mariadb, redis):
            if reason := server.missing():
                raise SkipTest(reason)

    async def test_faults_lose_nothing_and_pass(self) -> None:
        """
        Under faults of its servers, requests succeed or get a 503 within ten seconds; afterwards
        all succeed, and the newest upload of each user is selected.
        """
        world = World(mariadb)
        self.addCleanup(world.stop)
        await world.start()
        for faults in FAULTS:
            outcome = await world.run(world.faults(faults), SECONDS)
            statuses = {a.status for a in outcome.answers}
            self.assertLessEqual(statuses, {*GOOD.values(), 503}, faults)
            self.assertEqual((outcome.lost, outcome.failed, outcome.wrong), ([], [], []), faults)
            self.assertLess(outcome.recovery, RECOVERY, faults)
        self.assertNotIn("Traceback", world.daemon.output)

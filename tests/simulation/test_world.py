"""Tests of the whole service on one clock, with random faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.model.messages import Job, Op
from tests.simulation.__main__ import failures, how_to_replay
from tests.simulation.state import SqlState
from tests.simulation.world import World

#: Worlds of a test run; ``make simulate`` has more.
SEEDS = 100

#: Worlds of a test run with one combined process.
COMBINED_SEEDS = 30

#: Worlds of a test run on the store that the service has.
SQL_SEEDS = 6

#: Worlds of a test run that are repeated.
REPEATED_SEEDS = 5


class WorldTests(SynchronousTestCase):
    """The guarantees of the service hold in every simulated world."""

    def test_guarantees_hold_in_many_worlds(self) -> None:
        """
        No accepted upload is lost, a selected avatar always has its images, no object stays
        without a row, the newest upload wins, and every world comes to rest.
        """
        failed = failures(0, SEEDS)
        if failed:
            lines = [f"{text}\n  {how_to_replay(seed)}" for seed, text in failed.items()]
            self.fail("\n".join([f"{len(failed)} worlds went wrong:", *lines]))

    def test_guarantees_hold_with_queues_in_memory(self) -> None:
        """The same holds if one process has both roles, and its queues die with it."""
        failed = failures(0, COMBINED_SEEDS, combined=True)
        if failed:
            lines = [f"{text}\n  {how_to_replay(seed, True)}" for seed, text in failed.items()]
            self.fail("\n".join([f"{len(failed)} worlds went wrong:", *lines]))

    def test_a_dead_job_is_pending_until_it_is_repaired(self) -> None:
        """The simulation does not end while only the repair of a dead-lettered job is pending."""
        world = World(0)
        self.assertTrue(world.is_quiet())
        world.dead_jobs.put(Job(op=Op.DELETE, id="a" * 32).encode(sent=world.clock.seconds()))
        self.assertFalse(world.is_quiet())

    def test_sql_store_gives_the_same_world(self) -> None:
        """A world on the SQL store makes the same calls as one on the store in memory."""
        for seed in range(SQL_SEEDS):
            world, same = World(seed, state=SqlState()), World(seed)
            world.run()
            same.run()
            self.assertEqual(world.digest, same.digest, seed)


class ReplayTests(SynchronousTestCase):
    """A seed reproduces its world."""

    def digest(self, seed: int, trace: list[str] | None = None) -> int:
        world = World(seed, trace=trace)
        world.run()
        return world.digest

    def test_same_seed_gives_the_same_world(self) -> None:
        """The same seed gives the same calls; another seed gives others."""
        for seed in range(REPEATED_SEEDS):
            trace: list[str] = []
            self.assertEqual(self.digest(seed), self.digest(seed, trace))
            self.assertGreater(len(trace), 50)
        self.assertEqual(len({self.digest(s) for s in range(REPEATED_SEEDS)}), REPEATED_SEEDS)

    def test_same_seed_gives_the_same_world_in_another_process(self) -> None:
        """A seed gives the same world in another process with another hash seed."""
        root = Path(fxprofile.__file__).parent.parent
        code = (
            "from tests.simulation.world import World\n"
            f"for seed in range({REPEATED_SEEDS}):\n"
            "    world = World(seed)\n"
            "    world.run()\n"
            "    print(world.digest)\n"
        )
        here = [self.digest(seed) for seed in range(REPEATED_SEEDS)]
        for hash_seed in ("1", "2"):
            output = subprocess.run(
                [sys.executable, "-c", code],
                cwd=root,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                check=True,
            ).stdout
            self.assertEqual([int(line) for line in output.split()], here)

"""
Tests of the whole service, on one clock and in any weather.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from tests.simulation.__main__ import failures, how_to_replay
from tests.simulation.state import SqlState
from tests.simulation.world import World

#: Worlds of a test run; ``make simulate`` has more.
SEEDS = 250

#: Worlds of a test run on the store that the service has.
SQL_SEEDS = 20


class WorldTests(SynchronousTestCase):
    """Whatever goes wrong, in the end all is as every owner would expect."""

    def test_many_worlds(self) -> None:
        """
        No accepted upload is lost, a selected avatar always has its pictures, nothing
        stays that no row knows, the newest upload wins, and nothing goes on for ever.
        """
        failed = failures(0, SEEDS)
        if failed:
            lines = [f"{text}\n  {how_to_replay(seed)}" for seed, text in failed.items()]
            self.fail("\n".join([f"{len(failed)} worlds went wrong:", *lines]))

    def test_dead_at_the_last_moment(self) -> None:
        """
        A job that dies when all else is quiet is waited for, until the repair has settled it:
        in this world the pictures of a deleted avatar are left to that.
        """
        World(502641).run()

    def test_sql(self) -> None:
        """So it is on the store of the service itself, call by call."""
        for seed in range(SQL_SEEDS):
            world, same = World(seed, state=SqlState()), World(seed)
            world.run()
            same.run()
            self.assertEqual(world.digest, same.digest, seed)


class ReplayTests(SynchronousTestCase):
    """A seed is all that is needed to see the same again."""

    def digest(self, seed: int, trace: list[str] | None = None) -> int:
        world = World(seed, trace=trace)
        world.run()
        return world.digest

    def test_same(self) -> None:
        """The same seed gives the same world, call by call; another one gives another."""
        for seed in range(10):
            trace: list[str] = []
            self.assertEqual(self.digest(seed), self.digest(seed, trace))
            self.assertGreater(len(trace), 50)
        self.assertEqual(len({self.digest(seed) for seed in range(10)}), 10)

    def test_other_process(self) -> None:
        """So it does in another process, whatever the order of its hashes."""
        root = Path(fxprofile.__file__).parent.parent
        code = (
            "from tests.simulation.world import World\n"
            "for seed in range(10):\n"
            "    world = World(seed)\n"
            "    world.run()\n"
            "    print(world.digest)\n"
        )
        here = [self.digest(seed) for seed in range(10)]
        for hash_seed in ("1", "2"):
            output = subprocess.run(
                [sys.executable, "-c", code],
                cwd=root,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                check=True,
            ).stdout
            self.assertEqual([int(line) for line in output.split()], here)

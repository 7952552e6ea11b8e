"""
Run many simulations, or replay one with a trace of its calls.

    python -m tests.simulation --seeds 100000
    python -m tests.simulation --replay 4711
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.ledger import Violation
from tests.simulation.world import World

#: Simulations between two lines of progress.
CHUNK = 200


def failures(first: int, number: int, combined: bool = False) -> dict[int, str]:
    """Return the violations of these simulations, by seed."""
    found = {}
    for seed in range(first, first + number):
        try:
            World(seed, combined=combined).run()
        except Violation as violation:
            found[seed] = str(violation)
    return found


def how_to_replay(seed: int, combined: bool = False) -> str:
    """Return the command that replays a simulation."""
    return f"python -m tests.simulation{' --combined' * combined} --replay {seed}"


def replay(seed: int, combined: bool) -> int:
    """Print the trace of one simulation."""
    trace: list[str] = []
    world = World(seed, trace=trace, combined=combined)
    try:
        world.run()
    except Violation as violation:
        print("\n".join(trace))
        print(f"\n{violation}")
        return 1
    print("\n".join(trace))
    print(f"\nseed {seed}: no violation, digest {world.digest:08x}")
    return 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", type=int, metavar="SEED", help="print the trace of one")
    parser.add_argument("--combined", action="store_true", help="one process has both roles")
    options = parser.parse_args()
    if options.replay is not None:
        return replay(options.replay, options.combined)
    began, done, failed = time.monotonic(), 0, 0
    last = options.first + options.seeds
    with ProcessPoolExecutor(options.processes) as pool:
        chunks = {
            pool.submit(failures, first, size, options.combined): size
            for first in range(options.first, last, CHUNK)
            for size in [min(CHUNK, last - first)]
        }
        for chunk in as_completed(chunks):
            for seed, violation in sorted(chunk.result().items()):
                failed += 1
                print(f"{violation}\n  {how_to_replay(seed, options.combined)}", flush=True)
            done += chunks[chunk]
            rate = done / (time.monotonic() - began)
            print(f"{done} of {options.seeds}, {failed} failed, {rate:.0f} a second", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

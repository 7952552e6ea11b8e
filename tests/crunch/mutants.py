"""
A program that crunches damaged copies of honest images in locked children.

In production each image gets a child of its own; here a child crunches a batch, so that a
test can try thousands.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence

from fxprofile.crunch import result, sandbox
from fxprofile.crunch.codec import job
from fxprofile.crunch.limits import Limits
from tests.corpus import seeds

BATCH = 125
AT_ONCE = 2
#: Mutants that claim to be large belong to another test.
LIMITS = Limits(timeout=120, cpu=60, max_pixels=2_000_000)

Change = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def flip_bits(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(numbers.randint(1, 20)):
        data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)


def change_header(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(numbers.randint(1, 4)):
        data[numbers.randrange(min(len(data), 200))] = numbers.choice(
            (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
        )


def change_number(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    at = numbers.randrange(len(data))
    size = numbers.choice((2, 4))
    value = numbers.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)) & (1 << 8 * size) - 1
    data[at : at + size] = value.to_bytes(size, numbers.choice(("big", "little")))


def cut(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    del data[numbers.randrange(4, len(data)) :]


def remove(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    at = numbers.randrange(4, len(data))
    del data[at : at + numbers.randint(1, 50)]


def insert(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    at = numbers.randrange(4, len(data))
    data[at:at] = numbers.randbytes(numbers.randint(1, 50))


def repeat(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    at = numbers.randrange(4, len(data))
    data[at:at] = data[at : at + numbers.randint(1, 200)] * numbers.randint(1, 20)


def cross(data: bytearray, numbers: random.Random, others: Sequence[bytes]) -> None:
    other = numbers.choice(others)
    data[numbers.randrange(4, len(data)) :] = other[numbers.randrange(len(other)) :]


CHANGES: Sequence[Change] = (
    flip_bits, change_header, change_number, cut, remove, insert, repeat, cross,
)  # fmt: skip


def mutant(seed: int, number: int) -> tuple[str, bytes]:
    """Return the mutant of this number, and the name of its original."""
    honest = seeds_once()
    numbers = random.Random(f"{seed} {number}")
    name = numbers.choice(sorted(honest))
    data = bytearray(honest[name])
    for _ in range(numbers.choice((1, 1, 1, 2, 3))):
        if len(data) > 8:
            numbers.choice(CHANGES)(data, numbers, list(honest.values()))
    return name, bytes(data)


_seeds: dict[str, bytes] = {}


def seeds_once() -> dict[str, bytes]:
    """Return the honest images, made once."""
    if not _seeds:
        _seeds.update(seeds())
    return _seeds


def crunch_batch(mutants: Sequence[tuple[int, bytes]], output: int, parent: int) -> None:
    """Lock this process, crunch these images, and exit."""
    sandbox.lock(parent=parent, limits=LIMITS, mode="best-effort")
    for number, data in mutants:
        # Written first: if the child crashes, the last number is that of the culprit.
        os.write(output, f"{number} ".encode())
        try:
            outcome = job.crunch(data, LIMITS)
            decoded = result.decode(job.encode_result(outcome))
            word = decoded.reason or "ready"
        except Exception as error:
            word = f"bug: {error!r}"
        os.write(output, json.dumps(word).encode() + b"\n")
    os._exit(0)


def main(seed: int, count: int) -> None:
    """Crunch so many mutants; print the outcomes, and the faults by number."""
    job.warm_up(LIMITS)
    seeds_once()
    outcomes: Counter[str] = Counter()
    bad: dict[str, str] = {}
    running: dict[int, int] = {}
    starts = list(range(0, count, BATCH))
    while starts or running:
        if starts and len(running) < AT_ONCE:
            start = starts.pop()
            batch = [(n, mutant(seed, n)[1]) for n in range(start, min(start + BATCH, count))]
            with tempfile.TemporaryFile() as file:
                output = os.dup(file.fileno())
            parent = os.getpid()
            child = os.fork()
            if child == 0:
                crunch_batch(batch, output, parent)
            running[child] = output
            continue
        child, status = os.wait()
        output = running.pop(child)
        lines = os.pread(output, 1 << 20, 0).decode().split("\n")
        os.close(output)
        for line in lines:
            number, _, word = line.partition(" ")
            if word:
                said = json.loads(word)
                outcomes[said.split(":")[0]] += 1
                if said.startswith("bug"):
                    bad[number] = said
            elif number:
                bad[number] = f"status {os.waitstatus_to_exitcode(status)}"
    print(json.dumps({"outcomes": outcomes, "bad": bad}))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(int(sys.argv[1]), int(sys.argv[2]))

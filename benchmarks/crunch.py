"""
The cost of crunching, compared with other ways to make the same three pictures.

Ours is measured as the pool's caller sees it, with the fork of the child and its sandbox.
The rounds of all ways are interleaved, so that a busy machine affects all of them; trust the
ratios.  A second table shows what WebP and AVIF besides the PNGs cost and save.

    python -m benchmarks.crunch [--rounds 5] [--only JPEG] [--fit cover] [--without vips]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from PIL import Image
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from benchmarks.crunch_cases import Case, cases
from benchmarks.crunch_rivals import run
from fxprofile.crunch.codec.placeholder import blurhash
from fxprofile.crunch.limits import Fit, Limits
from fxprofile.crunch.pool import CrunchPool
from tests.crunch.quality import natural, psnr, reference, ssim

OURS = "fxprofile"
RIVALS = ("vips", "gm", "pillow")
LIMITS = Limits(timeout=120)
#: Images in each throughput run: enough that the last one, during which the other child is
#: idle, counts for little.
LOAD = 120
#: The output formats besides PNG.
EXTRAS = ("webp", "avif")


class Measured:
    """The rounds of one way with one case."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.resident = 0
        self.pictures: dict[str, bytes] = {}

    def add(self, wall: Iterable[float], cpu: Iterable[float], resident: int) -> None:
        self.wall += wall
        self.cpu += cpu
        self.resident = max(self.resident, resident)

    @property
    def milliseconds(self) -> float:
        """The median of processor time, which other work on the machine affects little."""
        return statistics.median(self.cpu) * 1000

    @property
    def bytes(self) -> int:
        return sum(map(len, self.pictures.values()))


async def measure_ours(
    reactor: Any,
    pool: CrunchPool,
    original: IO[bytes],
    rounds: int,
    found: Measured,
    form: str = "png",
) -> None:
    for _ in range(rounds):
        started = reactor.seconds()
        report = await pool.examine(original=original)
        if report.outcome.reason is not None:
            sys.exit(f"{report.outcome.reason}: {report.outcome.detail}")
        found.add([reactor.seconds() - started], [report.cpu], report.resident)
    outcome = report.outcome
    found.pictures = {name: body for name, (_, body) in outcome.pictures[form].items()}


async def measure_case(
    reactor: Any, pool: CrunchPool, case: Case, options: argparse.Namespace
) -> dict[str, Measured]:
    """Measure each way with one case, in turns."""
    data = case.make()
    found: dict[str, Measured] = {OURS: Measured()}
    with tempfile.NamedTemporaryFile(suffix="." + case.name.split()[0].lower()) as file:
        file.write(data)
        file.flush()
        for _ in range(options.rounds):
            await measure_ours(reactor, pool, file, 3, found[OURS])
            for name in options.rivals:
                rounds = 1 if name == "gm" else 3
                answer = run(name, file.name, rounds, options.fit)
                if answer is not None:
                    rival = found.setdefault(name, Measured())
                    rival.add(answer["wall"], answer["cpu"], answer["resident"])
                    rival.pictures = answer["pictures"]
    return found


def quality(data: bytes, fit: Fit, pictures: dict[str, bytes]) -> tuple[float, float, float]:
    """Return the least and the mean PSNR, and the least SSIM, of the three sizes."""
    decibels, likeness = [], []
    for name, wanted in reference(data, fit).items():
        picture = Image.open(io.BytesIO(pictures[name])).convert("RGB")
        if picture.size != wanted.size:
            wanted = wanted.resize(picture.size, Image.Resampling.LANCZOS)
        decibels.append(psnr(picture, wanted))
        likeness.append(ssim(picture, wanted))
    return min(decibels), statistics.mean(decibels), min(likeness)


async def throughput(reactor: Any, children: int, load: Sequence[bytes]) -> float:
    """Return the images per second with so many children."""
    pool = CrunchPool(reactor, processes=children, limits=LIMITS, mode="best-effort")
    pool.startService()
    await pool.when_ready()

    async def one(data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            await pool.crunch(original=file)

    await one(load[0])
    started = reactor.seconds()
    await gatherResults([Deferred.fromCoroutine(one(load[n % len(load)])) for n in range(LOAD)])
    taken = reactor.seconds() - started
    await pool.stopService()
    return float(LOAD / taken)


async def measure_extras(reactor: Any, rounds: int, chosen: Iterable[Case]) -> list[str]:
    """Return lines with the time that other formats cost, and the bytes that they save."""
    # PNGs are always made; each other format is made besides them in a pool of its own.
    pools = {
        form: CrunchPool(
            reactor,
            processes=1,
            limits=replace(LIMITS, formats=() if form == "png" else (form,)),
            mode="best-effort",
        )
        for form in ("png", *EXTRAS)
    }
    lines = []
    for pool in pools.values():
        pool.startService()
        await pool.when_ready()
    for case in chosen:
        found = {form: Measured() for form in pools}
        with tempfile.TemporaryFile() as file:
            file.write(case.make())
            file.flush()
            for _ in range(rounds):
                for form, pool in pools.items():
                    await measure_ours(reactor, pool, file, 1, found[form], form)
        png = found["png"]
        lines.append(
            f"{case.name:26}{png.bytes / 1000:8.1f}"
            + "".join(
                f"{found[form].bytes / 1000:10.1f}"
                f"{100 - 100 * found[form].bytes / png.bytes:6.0f} %"
                f"{found[form].milliseconds - png.milliseconds:+7.0f} ms"
                for form in EXTRAS
            )
        )
    for pool in pools.values():
        await pool.stopService()
    return lines


def placeholder_milliseconds(rounds: int) -> float:
    """Return the processor time of a placeholder, for a picture of the smallest size."""
    picture = natural(100, 75, 1)
    times = []
    for _ in range(rounds * 20):
        started = time.process_time()
        blurhash(picture)
        times.append(time.process_time() - started)
    return statistics.median(times) * 1000


def require_rivals(names: Iterable[str]) -> None:
    """End with status 1 if a competitor does not run here: its column would be empty."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.new("RGB", (9, 9)).save(file, "PNG")
        file.flush()
        missing = [name for name in names if run(name, file.name, 1, "inside") is None]
    if missing:
        sys.exit(
            f"{', '.join(missing)} cannot run here. Install it (gm: GraphicsMagick;"
            f" vips: pyvips[binary]), or leave it out: --without {' '.join(missing)}"
        )


def geometric_mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan


def row(case: Case, found: dict[str, Measured], names: Sequence[str]) -> str:
    """Return a line of the table: milliseconds of processor time, and the other figures."""
    ours = found[OURS]
    times = [f"{found[n].milliseconds:8.0f}" if n in found else "       -" for n in names]
    gm, vips = found.get("gm"), found.get("vips")
    ratios = [f"{r.milliseconds / ours.milliseconds:7.1f}" if r else "      -" for r in (gm, vips)]
    size = f"{ours.bytes / gm.bytes:7.2f}" if gm else "      -"
    peak = [f"{found[n].resident >> 20:6}" if n in found else "     -" for n in names]
    wall = statistics.median(ours.wall) * 1000
    return f"{case.name:26}{''.join(times)}{wall:7.0f}{''.join(ratios)}{size}{''.join(peak)}"


def summary(
    results: Sequence[tuple[Case, dict[str, Measured]]], fit: Fit
) -> list[tuple[str, float, str]]:
    """Return the figures that have targets: name, value and target."""
    both = [(c, f) for c, f in results if "gm" in f]
    lines = []
    if both:
        times = {c.name: f["gm"].milliseconds / f[OURS].milliseconds for c, f in both}
        sizes = {c.name: f[OURS].bytes / f["gm"].bytes for c, f in both}
        lines.append(
            ("times faster than GraphicsMagick, mean", geometric_mean(times.values()), ">= 10")
        )
        lines += [
            (f"  {c.name}", times[c.name], f">= {c.target}")
            for c, _ in both
            if c.target is not None
        ]
        lines.append(("bytes of GraphicsMagick's, mean", geometric_mean(sizes.values()), "<= 0.94"))
        photos = [sizes[c.name] for c, _ in both if c.opaque_photo]
        if photos:
            lines.append(("bytes of GraphicsMagick's, worst photo", max(photos), "<= 1.1"))
    vips = [f[OURS].milliseconds / f["vips"].milliseconds for _, f in results if "vips" in f]
    if vips:
        lines.append(("time of libvips's, mean", geometric_mean(vips), "<= 0.92"))
    jpegs = [
        f[OURS].resident / 2**20
        for c, f in results
        if c.name.startswith("JPEG") and "progr" not in c.name
    ]
    if jpegs:
        lines.append(("MiB at most, baseline JPEG", max(jpegs), "<= 75"))
    near = [quality(c.make(), fit, f[OURS].pictures) for c, f in results if c.opaque_photo]
    if near:
        lines.append(("dB at least, opaque photos", min(q[0] for q in near), ">= 47"))
        lines.append(("dB in the mean", statistics.mean(q[1] for q in near), ">= 53"))
        lines.append(("SSIM at least", min(q[2] for q in near), ">= 0.994"))
    return lines


def met(value: float, wanted: str) -> bool:
    """Return whether a figure meets its target."""
    sign, number = wanted.split()
    return value >= float(number) if sign == ">=" else value <= float(number)


def plot(
    path: str, results: Sequence[tuple[Case, dict[str, Measured]]], names: Sequence[str]
) -> None:
    """Draw the times; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(results) + 1.5))
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        at = [n + place * height for n, (_, f) in enumerate(results) if name in f]
        axes.barh(at, [f[name].milliseconds for _, f in results if name in f], height, label=name)
    axes.set_yticks(
        [n + 0.4 - height / 2 for n in range(len(results))], [c.name for c, _ in results]
    )
    axes.set(xscale="log", xlabel="processor time of one image in three sizes, ms")
    axes.invert_yaxis()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


async def main(reactor: Any, options: argparse.Namespace) -> None:
    names = (OURS, *options.rivals)
    limits = replace(LIMITS, fit=options.fit)
    pool = CrunchPool(reactor, processes=1, limits=limits, mode="best-effort")
    pool.startService()
    layers = await pool.when_ready()
    print("layers:", ", ".join(layer for layer, held in layers.items() if held))
    head = "".join(f"{n:>8.8}" for n in names)
    peaks = "".join(f"{n:>6.5}" for n in names)
    print(f"{'ms of processor time':26}{head}   wall  gm/us vips/us bytes{peaks}  (MiB)")
    results = []
    for case in cases():
        if options.only.lower() in case.name.lower():
            found = await measure_case(reactor, pool, case, options)
            results.append((case, found))
            print(row(case, found, names), flush=True)
    await pool.stopService()
    lines = summary(results, options.fit)
    if not options.only:
        load = [case.make() for case in cases() for _ in range(case.weight)]
        speeds = {1: [], 2: []}  # type: dict[int, list[float]]
        for _ in range(options.rounds):
            for children in speeds:
                speeds[children].append(await throughput(reactor, children, load))
        one, two = (statistics.median(speeds[children]) for children in (1, 2))
        print(f"\n{one:.1f} images a second with one child, {two:.1f} with two")
        lines.append(("two children of one", two / one, ">= 1.85"))
        lines.append(("ms of a placeholder", placeholder_milliseconds(options.rounds), "<= 1"))
    chosen = [case for case, _ in results]
    print(f"\n{'KB of the three sizes':26}{'png':>8}" + "".join(f"{f:>10}{'':16}" for f in EXTRAS))
    for line in await measure_extras(reactor, options.rounds, chosen):
        print(line, flush=True)
    print()
    for what, value, wanted in lines:
        print(f"{what:44}{value:8.3f}   {wanted:9} {'' if met(value, wanted) else 'MISSED'}")
    if options.plot:
        plot(options.plot, results, names)
    if options.json:
        Path(options.json).write_text(  # noqa: ASYNC240
            json.dumps({what: value for what, value, _ in lines}, indent=1)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="times that all ways take turns")
    parser.add_argument("--only", default="", help="only cases whose names contain this")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=RIVALS, help="competitors to leave out"
    )
    parser.add_argument("--fit", default="inside", choices=("inside", "cover"))
    parser.add_argument("--plot", help="where to draw the times")
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()
    arguments.rivals = [name for name in RIVALS if name not in arguments.without]
    require_rivals(arguments.rivals)
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))

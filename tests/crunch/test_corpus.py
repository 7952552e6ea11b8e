"""The corpus, crunched in the real sandbox."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.trial.unittest import SkipTest, TestCase

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.pool import CrunchPool
from fxprofile.crunch.result import Report
from fxprofile.model.keys import VARIANTS
from tests.corpus import Entry, avif, entries, gif, heic, jpeg, others, png, tolerated, webp
from tests.corpus.drawing import STORED, drawing, exif, saved, shows
from tests.crunch.quality import psnr

#: Whether the corpus is crunched whole in every way, as ``make soak`` does; otherwise every third
#: quick entry is, except in the way that the daemon uses.
EVERYTHING = os.environ.get("FXPROFILE_CORPUS") == "all"

#: The timeout is generous, since the machine may be busy.
LIMITS = Limits(timeout=120)


class CorpusCase(TestCase):
    """Crunches entries of the corpus."""

    timeout = 300
    mode = "best-effort"
    limits = LIMITS

    def setUp(self) -> None:
        self.pool = self.make_pool(self.limits, self.mode)

    def make_pool(self, limits: Limits, mode: str) -> CrunchPool:
        pool = CrunchPool(reactor, processes=2, limits=limits, mode=mode, min_helpers=1)
        pool.startService()
        self.addCleanup(pool.stopService)
        return pool

    async def report(self, data: bytes, pool: CrunchPool | None = None) -> Report:
        with tempfile.TemporaryFile() as original:
            original.write(data)
            original.flush()
            return await (pool or self.pool).examine(original=original)

    async def problems(self, entry: Entry) -> list[str]:
        return problems_of(entry, await self.report(entry.make()))

    async def check_all(self, wanted: Iterable[Entry]) -> None:
        slots = DeferredSemaphore(2)
        problems: list[str] = []

        async def one(entry: Entry) -> None:
            problems.extend(f"{entry.name}: {problem}" for problem in await self.problems(entry))

        await gatherResults([slots.run(Deferred.fromCoroutine, one(e)) for e in wanted])
        self.assertEqual(problems, [])


def opened(report: Report) -> dict[str, Image.Image]:
    """Return the decoded PNGs of a report."""
    made = report.outcome.pictures["png"].items()
    return {name: Image.open(io.BytesIO(body), formats=("PNG",)) for name, (_, body) in made}


def likeness(square: Image.Image, whole: Image.Image) -> float:
    """Return the PSNR of a square and the centre of a whole picture, both reduced, in decibels."""
    side = min(whole.size)
    left, top = (whole.width - side) / 2, (whole.height - side) / 2
    # Of a few pixels, the two may choose neighbours.
    sides = (min(64, side // 4),) * 2
    if side < 16:
        return 99.0
    box = (left, top, left + side, top + side)
    return psnr(
        square.convert("RGBA").resize(sides, Image.Resampling.BOX),
        whole.convert("RGBA").resize(sides, Image.Resampling.BOX, box),
    )


def problems_of(entry: Entry, report: Report) -> list[str]:
    """Return what differs from the expected outcome."""
    outcome = report.outcome
    if (outcome.reason or "ready") not in entry.expected:
        return [f"{outcome.reason or 'ready'} ({outcome.detail}), not {sorted(entry.expected)}"]
    if outcome.reason is not None:
        return [] if report.permanent else ["the failure is not permanent"]
    pictures: dict[str, Any] = {}
    problems = []
    for name, (variant, body) in outcome.pictures["png"].items():
        pictures[name] = picture = Image.open(io.BytesIO(body), formats=("PNG",))
        picture.load()
        box = VARIANTS[name][1]
        if picture.size != (variant.width, variant.height) or max(picture.size) > box:
            problems.append(f"{name} is {picture.size}")
        if set(picture.info) - {"transparency", "srgb"}:
            problems.append(f"{name} has metadata {sorted(picture.info)}")
        if entry.absent and entry.absent in body:
            problems.append(f"{name} contains {entry.absent!r}")
    problems += shape_problems(outcome.sides, pictures)
    if entry.check is not None:
        try:
            entry.check(pictures)
        except AssertionError as error:
            problems.append(str(error))
    return problems


def shape_problems(source: tuple[int, int], pictures: dict[str, Any]) -> list[str]:
    """Return which pictures are larger than their source, or have another shape."""
    problems = []
    for name, picture in pictures.items():
        longer, shorter = max(source), min(source)
        wanted = min(longer, VARIANTS[name][1])
        if max(picture.size) != wanted:
            problems.append(f"{name} has {max(picture.size)} pixels, not {wanted}")
        if abs(min(picture.size) - max(1, shorter * wanted / longer)) > 1:
            problems.append(f"{name} of {picture.size} does not have the shape of {source}")
    return problems


class CorpusTests(CorpusCase):
    """Each input has its expected outcome."""

    def test_the_corpus_is_large_and_names_are_unique(self) -> None:
        """The corpus has more than 110 inputs with unique names."""
        names = [entry.name for entry in entries()]
        self.assertGreater(len(names), 110)
        self.assertEqual(len(names), len(set(names)))

    async def test_jpegs_have_their_outcomes(self) -> None:
        """Each JPEG of the corpus has its expected outcome."""
        await self.check_all(jpeg.entries())

    async def test_pngs_have_their_outcomes(self) -> None:
        """Each PNG of the corpus has its expected outcome."""
        await self.check_all(png.entries())

    async def test_gifs_have_their_outcomes(self) -> None:
        """Each GIF of the corpus has its expected outcome."""
        await self.check_all(gif.entries())

    async def test_webps_have_their_outcomes(self) -> None:
        """Each WebP of the corpus has its expected outcome."""
        await self.check_all(webp.entries())

    async def test_avifs_have_their_outcomes(self) -> None:
        """Each AVIF of the corpus has its expected outcome."""
        await self.check_all(avif.entries())

    async def test_tolerated_images_have_their_outcomes(self) -> None:
        """Each damaged or unusual image of the corpus has its expected outcome."""
        await self.check_all(tolerated.entries())

    async def test_other_files_are_unsupported(self) -> None:
        """Each file of another format is refused as unsupported."""
        await self.check_all(others.entries())


class OtherWaysTests(CorpusCase):
    """The corpus, crunched in other ways than the default one."""

    timeout = 1200

    async def check_some(self) -> None:
        """Check every third quick entry, or all."""
        wanted = [entry for entry in entries() if EVERYTHING or not entry.slow]
        await self.check_all(wanted if EVERYTHING else wanted[::3])


class UnlockedCorpusTests(OtherWaysTests):
    """No sandbox."""

    mode = "off"

    async def test_outcomes_without_the_sandbox(self) -> None:
        """The outcomes of the corpus are the same without the sandbox."""
        await self.check_some()


class FormatsCorpusTests(OtherWaysTests):
    """Further formats."""

    limits = replace(LIMITS, formats=("webp", "avif"))

    async def test_outcomes_with_further_formats(self) -> None:
        """The outcomes of the corpus are the same if pictures are made in other formats too."""
        await self.check_some()


class CoverCorpusTests(OtherWaysTests):
    """Squares."""

    limits = replace(LIMITS, fit="cover")

    async def test_outcomes_with_cover(self) -> None:
        """With ``cover``, the outcomes are the same, and the pictures are the central squares."""
        self.whole = self.make_pool(LIMITS, self.mode)
        await self.check_some()

    async def problems(self, entry: Entry) -> list[str]:
        data = entry.make()
        report, whole = await self.report(data), await self.report(data, self.whole)
        outcome = report.outcome
        if outcome.reason is not None or whole.outcome.reason is not None:
            wanted = whole.outcome.reason
            return [] if outcome.reason == wanted else [f"{outcome.reason}, not {wanted}"]
        problems = []
        for name, picture in opened(report).items():
            side = min(*outcome.sides, VARIANTS[name][1])
            if picture.size != (side, side):
                problems.append(f"{name} is {picture.size}, not {side} pixels wide and high")
        seen = likeness(opened(report)["large"], opened(whole)["large"])
        return [*problems, f"{seen:.0f} dB"] if seen < 25 else problems


class RepeatTests(CorpusCase):
    """Crunching is a function of the bytes."""

    async def test_equal_images_give_equal_pictures(self) -> None:
        """The same image gives the same bytes in every child, with and without the sandbox."""
        unlocked = self.make_pool(LIMITS, "off")
        for data in (jpeg.plain(), png.deep_colour(), gif.plain(), webp.plain(), avif.plain()):
            first = (await self.report(data)).outcome.pictures
            again = (await self.report(data)).outcome.pictures
            self.pool, locked = unlocked, self.pool
            elsewhere = (await self.report(data)).outcome.pictures
            self.pool = locked
            self.assertEqual(len(first["png"]), 3)
            self.assertEqual(first, again)
            self.assertEqual(first, elsewhere)


class HeicTests(CorpusCase):
    """HEIC, if its decoder is installed and enabled."""

    limits = replace(LIMITS, heic=True)

    def setUp(self) -> None:
        try:
            import pillow_heif
        except ImportError:
            raise SkipTest("pillow-heif is not installed") from None
        pillow_heif.register_heif_opener()
        super().setUp()

    async def test_heic_is_oriented_in_the_sandbox(self) -> None:
        """HEIC is accepted if it is enabled, oriented, and decoded in the sandbox."""
        self.assertTrue((await self.pool.when_ready())["no_new_privs"])
        check = shows(tolerance=20, sides=(600, 375))
        for orientation in (1, 6):
            image = drawing()
            if orientation == 6:
                image = image.transpose(STORED[6])
            data = saved(image, "HEIF", quality=90, exif=exif(orientation))
            report = await self.report(data)
            self.assertEqual(report.outcome.kind, "heic", report.outcome.detail)
            wanted = Entry("HEIC", bytes, frozenset({"ready"}), check)
            # Its opener returns the sides of the oriented picture.
            self.assertEqual(problems_of(wanted, report), [])

    async def test_a_grid_is_decoded_with_one_thread(self) -> None:
        """A HEIC of several tiles, as iPhones make them, is decoded in the sandbox."""
        report = await self.report(heic.grid(3, 2, 256))
        wanted = Entry("HEIC grid", bytes, frozenset({"ready"}), shows(sides=(600, 400)))
        self.assertEqual(problems_of(wanted, report), [])


class MemoryTests(CorpusCase):
    """Intact images that need more memory than allowed."""

    limits = replace(LIMITS, memory=64 << 20)

    async def test_a_lack_of_memory_is_not_damage(self) -> None:
        """An intact image that needs more memory than allowed fails with memory, not corrupt."""
        for form, sides, options in (
            ("JPEG", (8000, 6000), {"progressive": True, "quality": 20}),
            ("PNG", (6000, 5000), {"compress_level": 1}),
            ("WEBP", (4000, 3000), {"method": 0, "quality": 20}),
            ("AVIF", (5000, 4000), {"speed": 10, "quality": 20}),
        ):
            file = io.BytesIO()
            Image.new("RGB", sides, (200, 100, 50)).save(file, form, **options)
            report = await self.report(file.getvalue())
            outcome = report.outcome
            self.assertEqual(outcome.reason, "memory", f"{form}: {outcome.detail}")
            self.assertFalse(report.permanent, form)

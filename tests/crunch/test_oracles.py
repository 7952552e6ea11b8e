"""The corpus compared with decoders that share no code with ours: libvips and Chromium."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec import decoders
from fxprofile.crunch.codec.job import crunch
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.signature import MEDIA_TYPES, SIGNATURE_BYTES, sniff
from tests.browser import chromium
from tests.corpus import Entry, avif, entries, gif, jpeg, png, tolerated, webp
from tests.crunch import oracles

_INCOMPLETE = "we refuse a picture that lacks more than a hundredth; others show the rest"
_DAMAGED = "we refuse damaged pixels; others show the rest"

#: Where Chromium differs from us, by input, and why.
CHROMIUM: Final[Mapping[str, str]] = {
    "cut in the middle": _INCOMPLETE,
    "a tenth missing": _INCOMPLETE,
    "progressive, half missing": _INCOMPLETE,
    "no end": "Chromium leaves out the last row of blocks if the end is missing",
    "three bytes missing": "Chromium leaves out the last row of blocks if the end is missing",
    "PNG, cut in half": _INCOMPLETE,
    "PNG, too little data": _INCOMPLETE,
    "PNG, hidden default image and a wrong number": "Chromium shows nothing; an"
    " animation whose frames are misnumbered does not count (PNG, section 11.3.2)",
    "PNG, iPhone-optimised": "only Apple's software reads it",
    "GIF, cut": _INCOMPLETE,
    "GIF, half missing": _INCOMPLETE,
    "WebP, orientation 6": "Chromium ignores the orientation of a WebP",
    "WebP, wrong length": "Chromium waits for the bytes that the file claims; all pixels are there",
    "WebP, canvas other than its picture": "others refuse it, but all pixels are there",
    "AVIF, alpha": "Chromium reads full-range alpha as limited range",
    "AVIF, sequence": "Chromium reads a full-range sequence as limited range",
}

_NO_NUMBERS = "libvips does not apply gAMA, cHRM and code points"

#: Where libvips differs from us, by input, and why.
LIBVIPS: Final[Mapping[str, str]] = {
    "cmyk": "libvips uses its own profile for CMYK without one",
    "LAB profile": "libvips applies a Lab profile to RGB",
    "cut in the middle": _INCOMPLETE,
    "a tenth missing": _INCOMPLETE,
    "progressive, half missing": _INCOMPLETE,
    "PNG, wrong checksum in IHDR": "libvips checks no CRC",
    "PNG, palette with a wrong CRC": "libvips checks no CRC",
    "PNG, profile with a wrong CRC": "libvips checks no CRC",
    "PNG, no such filter": _DAMAGED,
    "PNG, cut in half": _INCOMPLETE,
    "PNG, too little data": _INCOMPLETE,
    "PNG, hidden default image": "libvips does not read animated PNG",
    "PNG, iPhone-optimised": "only Apple's software reads it",
    "PNG, gamma of linear light": _NO_NUMBERS,
    "PNG, chromaticities of Display P3": _NO_NUMBERS,
    "PNG, code points of Display P3": _NO_NUMBERS,
    "PNG, code points of linear light": _NO_NUMBERS,
    "GIF, cut": _INCOMPLETE,
    "GIF, half missing": _INCOMPLETE,
    "GIF, last bytes missing": "libvips leaves out what a cut block encodes",
    "GIF, last block cut": "libvips leaves out what a cut block encodes",
    "GIF, frame smaller than its canvas": "libvips fills the canvas with black",
    "WebP, wrong length": "libvips refuses it, but all pixels are there",
    "WebP, canvas other than its picture": "others refuse it, but all pixels are there",
    "AVIF, sequence": "libvips does not read AVIF sequences",
    "AVIF, code points of Display P3": _NO_NUMBERS,
    "AVIF, code points of linear light": _NO_NUMBERS,
    "AVIF, invalid clean aperture": "libvips refuses it; browsers ignore the aperture",
}


def differences(entry: Entry) -> tuple[str | None, str | None]:
    """Return how Chromium and libvips differ from us for an input; None if they do not."""
    data = entry.make()
    pixels = oracles.claimed_pixels(data)
    outcome = crunch(data, Limits())
    if outcome.reason not in (None, "corrupt") or pixels is None or pixels > oracles.MAX_PIXELS:
        return None, None
    media_type = MEDIA_TYPES[sniff(data[:SIGNATURE_BYTES]) or "png"]
    shown = oracles.by_chromium(data, media_type), oracles.by_vips(data)
    if outcome.reason is not None:
        by_chromium, by_vips = (image and image.getbbox() and "shows it" for image in shown)
    else:
        # Our PNG is read by libvips too: Pillow has no say in what it shows.
        ours = oracles.by_vips(outcome.pictures["png"]["large"][1])
        by_chromium, by_vips = (
            "refuses it" if ours is None or image is None else oracles.difference(ours, image)
            for image in shown
        )
    return by_chromium or None, by_vips or None


class OracleTests(SynchronousTestCase):
    """Independent decoders show what we show, but for the exceptions that are listed."""

    skip = chromium.missing()

    def setUp(self) -> None:
        decoders.prepare(Limits())

    def judge(self, judged: Iterable[Entry]) -> None:
        """Fail for each difference that is not listed, and for each listed one that is gone."""
        problems = []
        for entry in judged:
            if entry.slow:
                continue
            found = differences(entry)
            for oracle, listed, difference in zip(
                ("Chromium", "libvips"), (CHROMIUM, LIBVIPS), found, strict=True
            ):
                if (entry.name in listed) is (difference is None):
                    problems.append(f"{entry.name}: {oracle}: {difference or 'now agrees'}")
        self.assertEqual(problems, [])

    def test_jpegs_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each JPEG of the corpus as we do."""
        self.judge(jpeg.entries())

    def test_pngs_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each PNG of the corpus as we do."""
        self.judge(png.entries())

    def test_gifs_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each GIF of the corpus as we do."""
        self.judge(gif.entries())

    def test_webps_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each WebP of the corpus as we do."""
        self.judge(webp.entries())

    def test_avifs_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each AVIF of the corpus as we do."""
        self.judge(avif.entries())

    def test_tolerated_images_look_like_elsewhere(self) -> None:
        """Chromium and libvips show each damaged or unusual image of the corpus as we do."""
        self.judge(tolerated.entries())

    def test_exceptions_are_in_the_corpus(self) -> None:
        """Each listed exception is the name of an input."""
        names = {entry.name for entry in entries() if not entry.slow}
        self.assertLessEqual({*CHROMIUM, *LIBVIPS}, names)

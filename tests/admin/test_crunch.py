"""``fxprofile-admin crunch``."""

from __future__ import annotations

import os
from io import BytesIO

from PIL import Image

from fxprofile.admin.doctor import KINDS, SAMPLES
from fxprofile.crunch.result import check_png
from fxprofile.crunch.sandbox import LAYERS
from fxprofile.model.keys import VARIANTS
from tests.admin.support import AdminCase


def png(width: int, height: int) -> bytes:
    """A black PNG."""
    image = Image.new("L", (width, height))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class CrunchTests(AdminCase):
    """``crunch``."""

    def setUp(self) -> None:
        super().setUp()
        for kind in KINDS:
            data = (SAMPLES / f"sample.{kind}").read_bytes()
            (self.directory / f"good.{kind}").write_bytes(data)
        (self.directory / "bad.png").write_bytes((self.directory / "good.png").read_bytes()[:40])
        (self.directory / "text.png").write_bytes(b"just text")

    async def test_a_valid_image_is_described(self) -> None:
        """For an image the JSON holds type, size, pictures, time, memory and sandbox layers."""
        names = [f"good.{kind}" for kind in KINDS]
        answer = (await self.admin("crunch", "--json", *names)).json
        self.assertEqual(set(answer["layers"]), set(LAYERS))
        self.assertIn("pil", answer["versions"])
        for name, about in zip(names, answer["files"], strict=True):
            self.assertEqual(about["file"], name)
            self.assertEqual(about["outcome"], "ready")
            self.assertEqual(about["kind"], name.partition(".")[2])
            self.assertEqual((about["width"], about["height"]), (2, 2))
            self.assertEqual(about["bytes"], (self.directory / name).stat().st_size)
            self.assertEqual(set(about["pictures"]), set(VARIANTS))
            self.assertGreater(about["peak_memory"], 1 << 20)
            self.assertGreater(about["wall_seconds"], 0)

    async def test_a_refused_file_is_explained(self) -> None:
        """For a file that would be refused the JSON holds the reason, and the status is 1."""
        ran = await self.admin("crunch", "--json", "good.gif", "bad.png", "text.png", status=1)
        good, bad, text = ran.json["files"]
        self.assertEqual(good["outcome"], "ready")
        self.assertEqual((bad["outcome"], bad["reason"]), ("failed", "corrupt"))
        self.assertEqual(bad["message"], "The image is damaged or incomplete.")
        self.assertEqual((text["reason"], text["permanent"]), ("unsupported", True))
        self.assertEqual(text["pictures"], {})

    async def test_each_file_is_a_line(self) -> None:
        """The text output is a line for each file, followed by the sandbox."""
        ran = await self.admin("crunch", "good.jpeg", "bad.png", status=1)
        lines = ran.output.splitlines()
        self.assertEqual(lines[1].split()[:4], ["good.jpeg", "ready", "jpeg", "2x2"])
        self.assertEqual(lines[2].split()[:2], ["bad.png", "corrupt"])
        self.assertTrue(lines[4].startswith("sandbox: "))

    async def test_the_limits_of_the_settings_apply(self) -> None:
        """A file over a crunch limit or over the upload size is refused."""
        (self.directory / "wide.png").write_bytes(png(200, 1))
        ran = await self.admin(
            "crunch", "--json", "wide.png", "--set=crunch.max_side=100", status=1
        )
        self.assertEqual(ran.json["files"][0]["reason"], "too_wide")
        ran = await self.admin(
            "crunch", "--json", "good.png", "--set=uploads.max_bytes=10", status=1
        )
        self.assertEqual(ran.json["files"][0]["reason"], "too_many_bytes")
        self.assertIn("413", ran.json["files"][0]["message"])

    async def test_pictures_are_written_and_replaced_only_after_confirmation(self) -> None:
        """Pictures are written to --out; existing files are replaced only after confirmation."""
        out = self.directory / "a/b"
        ran = await self.admin("crunch", "--json", "good.png", "--out=a/b")
        pictures = ran.json["files"][0]["pictures"]
        self.assertEqual(
            sorted(os.listdir(out)),
            ["good.png.default.png", "good.png.large.png", "good.png.small.png"],
        )
        for picture in pictures.values():
            body = (self.directory / picture["path"]).read_bytes()
            self.assertEqual(check_png(body), (2, 2))
        place = out / "good.png.small.png"
        place.write_text("mine")
        await self.admin("crunch", "good.png", "--out=a/b", answers="n\n", status=1)
        await self.admin("crunch", "good.png", "--out=a/b", "--json", status=2)
        self.assertEqual(place.read_text(), "mine")
        await self.admin("crunch", "good.png", "--out=a/b", answers="y\n")
        self.assertEqual(check_png(place.read_bytes()), (2, 2))

    async def test_the_fit_of_the_settings_applies(self) -> None:
        """Pictures are whole with crunch.fit=inside, and the square in the centre with cover."""
        (self.directory / "wide.png").write_bytes(png(800, 400))
        for fit, sides in (("inside", (600, 300)), ("cover", (400, 400))):
            ran = await self.admin("crunch", "--json", "wide.png", f"--set=crunch.fit={fit}")
            large = ran.json["files"][0]["pictures"]["large"]
            self.assertEqual((ran.json["fit"], large["width"], large["height"]), (fit, *sides))

    async def test_other_formats_are_shown_and_written(self) -> None:
        """The pictures in the other formats of crunch.formats are shown and written."""
        wanted = '--set=crunch.formats=["png", "webp"]'
        ran = await self.admin("crunch", "--json", "good.png", "--out=o", wanted)
        (about,) = ran.json["files"]
        self.assertEqual(len(about["placeholder"]), 28)
        for name, picture in about["other_formats"]["webp"].items():
            self.assertEqual(picture["path"], f"o/good.png.{name}.webp")
            image = Image.open(self.directory / picture["path"])
            self.assertEqual((image.format, image.size), ("WEBP", (2, 2)))
        ran = await self.admin("crunch", "good.png", wanted)
        self.assertEqual(ran.output.splitlines()[1].count(", webp "), 3)

    async def test_a_dash_reads_standard_input_up_to_the_limit(self) -> None:
        """A dash reads standard input, at most one byte over the upload limit, and only once."""
        ran = await self.admin("crunch", "--json", "-", answers="just text", status=1)
        (about,) = ran.json["files"]
        self.assertEqual((about["file"], about["bytes"]), ("-", 9))
        self.assertEqual(about["reason"], "unsupported")
        limit = "--set=uploads.max_bytes=10"
        ran = await self.admin("crunch", "--json", "-", limit, answers="x" * 99, status=1)
        (about,) = ran.json["files"]
        self.assertEqual((about["reason"], about["bytes"]), ("too_many_bytes", 11))
        ran = await self.admin("crunch", "-", "-", status=2)
        self.assertIn("only once", ran.errors)

    async def test_a_link_is_replaced_and_not_followed(self) -> None:
        """A symbolic link at the place of a picture is replaced, and its target is unchanged."""
        (self.directory / "out").mkdir()
        (self.directory / "precious").write_text("precious")
        (self.directory / "out/good.png.large.png").symlink_to(self.directory / "precious")
        await self.admin("crunch", "good.png", "--out=out", "--yes")
        self.assertEqual((self.directory / "precious").read_text(), "precious")

    async def test_two_files_of_one_name_are_a_usage_error(self) -> None:
        """Two files with the same name cannot be written to one directory."""
        (self.directory / "sub").mkdir()
        (self.directory / "sub/good.png").write_bytes((self.directory / "good.png").read_bytes())
        ran = await self.admin("crunch", "good.png", "sub/good.png", "--out=o", status=2)
        self.assertIn("Two files named good.png", ran.errors)

    async def test_a_path_that_is_not_a_file_is_a_usage_error(self) -> None:
        """A missing file, a directory and a pipe are usage errors."""
        os.mkfifo(self.directory / "pipe")
        for name in ("none.png", ".", "pipe"):
            ran = await self.admin("crunch", name, status=2)
            self.assertIn(name, ran.errors)
        await self.admin("crunch", status=2)

    async def test_a_directory_that_cannot_be_created_is_an_error(self) -> None:
        """If --out cannot be created, the error names it."""
        ran = await self.admin("crunch", "good.png", "--out=text.png/x", status=1)
        self.assertIn("text.png/x", ran.errors)

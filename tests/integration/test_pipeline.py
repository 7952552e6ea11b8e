"""
Tests of the whole upload path, over HTTP, with files and child processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

from twisted.internet.utils import getProcessOutputAndValue

import fxprofile
from tests.integration import photos
from tests.integration.client import Client
from tests.integration.scene import PipelineCase
from tests.support.daemon import Daemon


class CombinedTests(PipelineCase):
    """The combined role."""

    async def test_uploads_become_pictures_or_are_refused(self) -> None:
        """An upload becomes three pictures, or is refused with a reason."""
        client = Client(await self.scene.daemon(uploads__wait=30))

        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, answer["url"], (200, 150), (100, 75), (600, 450))

        status, answer = await client.upload(photos.phone_photo())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, answer["url"], (150, 200), (75, 100), (450, 600))
        _, data = await client.picture(answer["url"] + "_large")
        self.assertNotIn(b"Telephone", data)

        status, answer = await client.upload(photos.animated_gif(), "image/gif")
        self.assertEqual((status, answer["status"]), (201, "ready"))
        _, data = await client.picture(answer["url"])
        image = photos.opened(data)
        self.assertEqual(getattr(image, "n_frames", 1), 1)
        self.assertEqual(image.convert("RGB").getpixel((100, 60)), (255, 0, 0))

        status, answer = await client.upload(photos.cmyk_jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        _, data = await client.picture(answer["url"])
        red, green, blue = photos.opened(data).convert("RGB").getpixel((100, 75))
        self.assertTrue(red > 200 and green < 60 and blue < 60, (red, green, blue))

        for content_type, data in photos.other_formats().items():
            status, answer = await client.upload(data, content_type)
            self.assertEqual((status, answer["status"]), (201, "ready"), content_type)

        status, answer = await client.upload(b"just some text\n" * 50, "image/png")
        self.assertEqual((status, answer["errno"], answer["reason"]), (422, 103, "unsupported"))
        status, answer = await client.upload(photos.jpeg()[:5000])
        self.assertEqual((status, answer["errno"], answer["reason"]), (422, 103, "corrupt"))

    async def test_objects_of_old_avatars_are_removed(self) -> None:
        """The objects of replaced and deleted avatars are removed."""
        client = Client(await self.scene.daemon(uploads__wait=30))
        _, first = await client.upload(photos.jpeg())
        _, second = await client.upload(photos.jpeg(300, 300))
        _, avatar = await client.ask("GET", "/v1/avatar")
        self.assertEqual(avatar["id"], second["id"])
        self.assertEqual(await client.status(first["id"]), "replaced")
        await client.until_picture(first["url"], 404)
        kept = [f"fxprofile-public/a/{second['id']}{s}" for s in ("", "_large", "_small")]
        await self.scene.until(
            lambda: self.scene.files() == kept, "only the second avatar is there"
        )
        self.assertEqual(await client.ask("DELETE", f"/v1/avatar/{second['id']}"), (200, {}))
        await client.until_picture(second["url"], 404)
        await self.scene.until(lambda: self.scene.files() == [], "nothing is there")
        self.assertEqual((await client.ask("DELETE", "/v1/avatar"))[0], 404)

    async def test_content_negotiation_of_formats(self) -> None:
        """A browser that accepts another format gets it; a delete removes every format."""
        client = Client(await self.scene.daemon(uploads__wait=30, crunch__formats="png,webp,avif"))
        _, answer = await client.upload(photos.jpeg())
        self.assertRegex(answer["placeholder"], r"\A\S{28}\Z")
        self.assertEqual(
            (await client.ask("GET", "/v1/avatar"))[1]["placeholder"], answer["placeholder"]
        )
        lengths = []
        for accept, kind in (("*/*", "PNG"), ("image/webp", "WEBP"), ("image/avif", "AVIF")):
            for suffix, size in (("", (200, 150)), ("_small", (100, 75)), ("_large", (600, 450))):
                status, data = await client.picture(answer["url"] + suffix, accept)
                self.assertEqual((status, photos.opened(data, kind).size), (200, size))
            lengths.append(len(data))
        self.assertEqual(lengths, sorted(lengths, reverse=True))
        self.assertEqual(len(self.scene.files()), 9)
        await client.ask("DELETE", "/v1/avatar")
        await self.scene.until(lambda: self.scene.files() == [], "nothing is there")

    async def test_heic_is_accepted_if_enabled(self) -> None:
        """HEIC is accepted where its decoder is installed, unless ``crunch.heic`` is false."""
        if find_spec("pillow_heif") is None:
            raise SkipTest("pillow-heif is not installed")
        daemon = await self.scene.daemon(uploads__wait=30, crunch__heic="false")
        client = Client(daemon)
        status, answer = await client.upload(photos.heic(), "image/heic")
        self.assertEqual((status, answer["reason"]), (422, "unsupported"))
        await daemon.kill()
        client = Client(await self.scene.daemon(uploads__wait=30))
        status, answer = await client.upload(photos.heic(), "image/heic")
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, answer["url"], (200, 150), (100, 75), (600, 450))

    async def test_killed_daemon_loses_no_upload(self) -> None:
        """A daemon that is killed after accepting an upload finishes it after a restart."""
        daemon = await self.scene.daemon(queue__visibility_timeout=4)
        client = Client(daemon)
        uploads = []
        for _ in range(3):
            status, answer = await client.upload(photos.phone_photo(), Prefer="respond-async")
            self.assertEqual(status, 201)
            uploads.append(answer)
        await daemon.kill()
        await daemon.start()
        await client.until(uploads[-1]["id"], "ready")
        for answer in uploads[:-1]:
            await client.until(answer["id"], "replaced")
        await self.scene.assert_sizes(client, uploads[-1]["url"], (150, 200), (75, 100), (450, 600))
        await self.scene.until(lambda: len(self.scene.files()) == 3, "only the last is there")

    async def test_stop_finishes_work_in_flight(self) -> None:
        """A daemon that is stopped finishes its work in flight."""
        daemon = await self.scene.daemon()
        client = Client(daemon)
        _, answer = await client.upload(photos.phone_photo(), Prefer="respond-async")
        self.assertEqual(await daemon.stop(), -15)
        await daemon.start()
        await client.until(answer["id"], "ready")
        self.assertNotIn("Traceback", daemon.output)
        self.assertNotIn("Unhandled", daemon.output)


class RolesTests(PipelineCase):
    """Three processes with separate roles on one folder."""

    async def test_three_roles_together(self) -> None:
        """Web, worker and images together serve an upload like the combined role."""
        web = await self.scene.daemon("web", uploads__wait=30)
        await self.scene.daemon("worker")
        await self.scene.daemon("images")
        client = Client(web)
        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, answer["url"], (200, 150), (100, 75), (600, 450))
        await client.ask("DELETE", "/v1/avatar")
        await client.until_picture(answer["url"], 404)
        await self.scene.until(lambda: self.scene.files() == [], "nothing is there")

    async def test_upload_waits_for_a_worker(self) -> None:
        """
        An upload without a running worker is processed when one starts, even after a crash of the
        web role.
        """
        web = await self.scene.daemon("web", uploads__wait=0)
        client = Client(web)
        _, answer = await client.upload(photos.jpeg())
        self.assertEqual(await client.status(answer["id"]), "processing")
        await web.kill()
        worker = await self.scene.daemon("worker")
        await web.start()
        await client.until(answer["id"], "ready")
        await worker.stop()
        self.assertNotIn("Traceback", worker.output + web.output)

    async def test_job_of_a_killed_worker_is_repeated(self) -> None:
        """The job of a killed worker is run by another one."""
        web = await self.scene.daemon("web", uploads__wait=0)
        worker = await self.scene.daemon("worker", queue__visibility_timeout=2)
        client = Client(web)
        ids = []
        for _ in range(4):
            _, answer = await client.upload(photos.phone_photo())
            ids.append(answer["id"])
        await worker.kill()
        await worker.start()
        await client.until(ids[-1], "ready")


class StartTests(PipelineCase):
    """Errors at start, of the program as it is run by its users."""

    def setUp(self) -> None:
        super().setUp()
        self.scene.preloaded = False

    async def failure(self, role: str = "combined", **settings: object) -> str:
        try:
            await self.scene.daemon(role, **settings)
        except RuntimeError:
            return (self.scene.directory / f"{role}.log").read_text()
        raise AssertionError("the daemon has started")

    async def assert_one_line(self, pattern: str, **settings: object) -> None:
        """The last line, and the only one on the standard error, says what is wrong."""
        log = await self.failure("combined", **settings)
        lines = [line for line in log.splitlines() if line.startswith("fxprofile: ")]
        self.assertEqual(lines, log.splitlines()[-1:])
        self.assertRegex(lines[0], pattern)
        self.assertNotIn("Traceback", log)
        os.unlink(self.scene.directory / "combined.log")

    async def run_in(
        self, directory: Path, command: Sequence[str], *places: Path
    ) -> tuple[bytes, bytes, int]:
        """
        Run a program to its end.

        :param places: where it looks for modules first.
        :returns: what it wrote on the standard output and the standard error; its status.
        """
        path = [*places, Path(fxprofile.__file__).parent.parent]
        return await getProcessOutputAndValue(
            command[0],
            command[1:],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
            path=str(directory),
        )

    async def test_missing_database_driver(self) -> None:
        """A database whose driver is not installed ends the start with the name of the extra."""
        directory = self.scene.directory
        (directory / "pymysql.py").write_text("raise ImportError")
        settings = {"database.url": "mysql+pymysql://127.0.0.1/x"}
        daemon = Daemon(directory, settings=settings, ports=self.scene.ports)
        out, error, status = await self.run_in(directory, daemon.command(), directory)
        line = b"fxprofile: database.url: mysql+pymysql needs fxprofile[mysql] to be installed\n"
        self.assertEqual((error, status), (line, 1))
        self.assertNotIn(b"Traceback", out)

    async def test_port_in_use(self) -> None:
        """A port that is in use ends the start with a line that names the setting."""
        await self.scene.daemon("images")
        await self.assert_one_line(r"images\.listen: cannot listen at tcp:.*[Aa]ddress")

    async def test_background_start_reports_failure(self) -> None:
        """The start of a background daemon that cannot listen fails."""
        images = await self.scene.daemon("images")
        directory = self.scene.directory / "background"
        directory.mkdir()
        command = [part for part in images.command() if part != "-n"]
        out, error, status = await self.run_in(directory, command)
        self.assertEqual((out, status), (b"", 1))
        self.assertIn(b"fxprofile: admin.listen: cannot listen at tcp:", error)
        self.assertEqual([path.name for path in directory.iterdir()], ["fxprofile-images.log"])
        log = (directory / "fxprofile-images.log").read_text()
        self.assertNotIn("Traceback", log)

    async def test_invalid_port(self) -> None:
        """An invalid port ends the start with a line that names the setting."""
        await self.assert_one_line(
            r"web\.listen: cannot listen at tcp:99999:",
            web__listen="tcp:99999:interface=127.0.0.1",
            web__public_url="http://127.0.0.1:1111",
        )

    async def test_unwritable_folder(self) -> None:
        """An unwritable folder ends the start with a line that names the setting."""
        file = self.scene.directory / "file"
        file.touch()
        await self.assert_one_line(
            r"storage\.directory: cannot write to .*/file/fxprofile-private: Not a directory",
            storage__directory=file,
        )
        await self.assert_one_line(
            r"database\.url: cannot write to .*/file/below: Not a directory",
            database__url=f"sqlite:///{file}/below/profile.db",
        )

    async def test_invalid_settings(self) -> None:
        """An invalid setting ends the start with one line and a non-zero exit status."""
        for settings, line in (
            ({"nothing__such": 1}, "fxprofile: nothing.such: there is no such setting\n"),
            (
                {"environment": "production"},
                "fxprofile: identity.driver: dev is not for environment = production; use fxa\n",
            ),
        ):
            log = await self.failure(**settings)
            self.assertEqual(log, line)
            os.unlink(self.scene.directory / "combined.log")

    async def test_production_warns_of_single_host_drivers(self) -> None:
        """In production, single-host drivers are logged as a warning."""
        images = await self.scene.daemon("images", environment="production")
        self.assertIn(
            "Doubtful setting: storage.driver: filesystem serves a single host only\n",
            images.output,
        )

"""The whole path, over real HTTP, with real files and real child processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from types import MappingProxyType

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.daemon import Daemon, Ports
from tests.integration import photos
from tests.integration.client import PATIENCE, Client


def files_in(directory: Path) -> list[str]:
    """Every file of the buckets."""
    root = directory / "var" / "buckets"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


class PipelineCase(TestCase):
    """A test with a folder of its own."""

    timeout = 5 * PATIENCE

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fxprofile-pipeline-"))
        self.addCleanup(rmtree, self.directory, ignore_errors=True)
        self.ports = Ports()

    #: What every daemon of the test has besides.
    settings: Mapping[str, object] = MappingProxyType({})
    environ: Mapping[str, str] = MappingProxyType({})

    async def daemon(self, role: str = "combined", **settings: object) -> Daemon:
        named = {name.replace("__", "."): value for name, value in settings.items()}
        daemon = Daemon(
            self.directory,
            role=role,
            settings={**self.settings, **named},
            environ=self.environ,
            ports=self.ports,
        )
        self.addCleanup(daemon.kill)
        await daemon.start()
        return daemon

    async def until(self, condition, what: str) -> None:
        deadline = reactor.seconds() + PATIENCE
        while not condition():
            if reactor.seconds() > deadline:
                self.fail(f"{what}: {files_in(self.directory)}")
            await deferLater(reactor, 0.1)

    async def assert_sizes(self, client: Client, url: str, *sizes: tuple[int, int]) -> None:
        for suffix, size in zip(("", "_small", "_large"), sizes, strict=True):
            status, data = await client.picture(url + suffix)
            self.assertEqual(status, 200, suffix)
            self.assertEqual(photos.opened(data).size, size)


class CombinedTests(PipelineCase):
    """One process."""

    async def test_pictures(self) -> None:
        """What users upload becomes three clean pictures, or is refused with a reason."""
        client = Client(await self.daemon(uploads__wait=30))

        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.assert_sizes(client, answer["url"], (200, 150), (100, 75), (600, 450))

        status, answer = await client.upload(photos.phone_photo())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.assert_sizes(client, answer["url"], (150, 200), (75, 100), (450, 600))
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

    async def test_replace_and_delete(self) -> None:
        """A newer avatar takes the place of the old one, whose objects go; so do deleted ones."""
        client = Client(await self.daemon(uploads__wait=30))
        _, first = await client.upload(photos.jpeg())
        _, second = await client.upload(photos.jpeg(300, 300))
        _, avatar = await client.ask("GET", "/v1/avatar")
        self.assertEqual(avatar["id"], second["id"])
        self.assertEqual(await client.status(first["id"]), "replaced")
        await client.until_picture(first["url"], 404)
        kept = [f"fxprofile-public/a/{second['id']}{s}" for s in ("", "_large", "_small")]
        await self.until(
            lambda: files_in(self.directory) == kept, "only the second avatar is there"
        )
        self.assertEqual(await client.ask("DELETE", f"/v1/avatar/{second['id']}"), (200, {}))
        await client.until_picture(second["url"], 404)
        await self.until(lambda: files_in(self.directory) == [], "nothing is there")
        self.assertEqual((await client.ask("DELETE", "/v1/avatar"))[0], 404)

    async def test_kill_after_accept(self) -> None:
        """A daemon killed between accept and ready has lost nothing when it is back."""
        daemon = await self.daemon(queue__visibility_timeout=4)
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
        await self.assert_sizes(client, uploads[-1]["url"], (150, 200), (75, 100), (450, 600))
        await self.until(lambda: len(files_in(self.directory)) == 3, "only the last is there")

    async def test_orderly_stop(self) -> None:
        """A daemon that is asked to stop finishes what it has in hand."""
        daemon = await self.daemon()
        client = Client(daemon)
        _, answer = await client.upload(photos.phone_photo(), Prefer="respond-async")
        self.assertEqual(await daemon.stop(), -15)
        await daemon.start()
        await client.until(answer["id"], "ready")
        self.assertNotIn("Traceback", daemon.output)
        self.assertNotIn("Unhandled", daemon.output)


class RolesTests(PipelineCase):
    """Three processes over one folder."""

    async def test_three_roles(self) -> None:
        """Web, worker and images do together what one process does."""
        web = await self.daemon("web", uploads__wait=30)
        await self.daemon("worker")
        await self.daemon("images")
        client = Client(web)
        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.assert_sizes(client, answer["url"], (200, 150), (100, 75), (600, 450))
        await client.ask("DELETE", "/v1/avatar")
        await client.until_picture(answer["url"], 404)
        await self.until(lambda: files_in(self.directory) == [], "nothing is there")

    async def test_no_worker(self) -> None:
        """An upload that no worker was there for arrives when one is, whoever died meanwhile."""
        web = await self.daemon("web", uploads__wait=0)
        client = Client(web)
        _, answer = await client.upload(photos.jpeg())
        self.assertEqual(await client.status(answer["id"]), "processing")
        await web.kill()
        worker = await self.daemon("worker")
        await web.start()
        await client.until(answer["id"], "ready")
        await worker.stop()
        self.assertNotIn("Traceback", worker.output + web.output)

    async def test_worker_killed(self) -> None:
        """What a killed worker had in hand another one does."""
        web = await self.daemon("web", uploads__wait=0)
        worker = await self.daemon("worker", queue__visibility_timeout=2)
        client = Client(web)
        ids = []
        for _ in range(4):
            _, answer = await client.upload(photos.phone_photo())
            ids.append(answer["id"])
        await worker.kill()
        await worker.start()
        await client.until(ids[-1], "ready")


class StartTests(PipelineCase):
    """Starting."""

    async def failure(self, role: str = "combined", **settings: object) -> str:
        try:
            await self.daemon(role, **settings)
        except RuntimeError:
            return (self.directory / f"{role}.log").read_text()
        raise AssertionError("the daemon has started")

    async def test_port_in_use(self) -> None:
        """A port that somebody else has ends the start with a line that names the setting."""
        await self.daemon("images")
        log = await self.failure("combined")
        self.assertRegex(log, r"fxprofile: images\.listen: cannot listen .*[Aa]ddress")
        self.assertNotIn("Traceback", log)

    async def test_impossible_settings(self) -> None:
        """An impossible setting ends the start with one line, and a status that is not 0."""
        for settings, line in (
            ({"nothing__such": 1}, "fxprofile: nothing: there is no such setting\n"),
            (
                {"environment": "production"},
                "fxprofile: identity.driver: dev is not for environment = production; use fxa\n",
            ),
        ):
            log = await self.failure(**settings)
            self.assertEqual(log, line)
            os.unlink(self.directory / "combined.log")

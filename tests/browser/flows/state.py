"""What happens between the choice of a file and its end, and what else goes on meanwhile."""

from __future__ import annotations

import os
import signal
from random import Random

from PIL import Image
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.browser.case import blocking, call_api
from tests.browser.flows.profile import READY, SQUARE
from tests.support.daemon import Daemon

#: The beginning of an AVIF file, which neither browsers nor services can decode.
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"

#: Keeps the page from sending again just because some seconds have passed.
NEVER_BY_TIME = (
    "const later = window.setTimeout;"
    "window.setTimeout = (call, time, ...rest) => time < 4000 ? later(call, time, ...rest) : 0"
)


class StateFlows:
    """The page of a service that answers an upload before its result, crops, and has no HEIC."""

    settings = {  # noqa: RUF012
        "uploads.wait": 0,
        "uploads.max_bytes": 9_000_000,
        "crunch.heic": False,
        "crunch.fit": "cover",
    }

    def large(self) -> str:
        """Return the path of a file that is sent as it is, and fills every buffer on its way."""
        return self.file("large.avif", AVIF + Random(1).randbytes(8_900_000))

    def history(self) -> list[str]:
        """Return the lines of the recent uploads."""
        script = "return [...document.querySelectorAll('#uploads li')].map(e => e.textContent)"
        return self.browser.execute_script(script)

    def leaving_is_questioned(self) -> bool:
        """Return whether the browser would ask before it leaves the page."""
        script = (
            "const event = new Event('beforeunload', {cancelable: true});"
            "return !dispatchEvent(event)"
        )
        return self.browser.execute_script(script)

    def portrait(self) -> str:
        """Return the address of the portrait."""
        return self.element("portrait").get_attribute("src") or ""

    @blocking
    def test_page_polls_for_the_result(self) -> None:
        """The page polls until the upload is ready or has failed, and remembers how it ended."""
        self.unfold()
        self.upload(self.photo(size=(800, 600)), whole=False)
        self.says("picture-status", READY)
        self.shows_sizes(*SQUARE)
        self.says("outcome", "200 OK")
        self.assertIn("/v1/avatar/upload/", self.text("curl"))
        portrait = self.portrait()

        self.element("file").send_keys(self.file("damaged.avif", AVIF + bytes(5000)))
        self.says("picture-status", "damaged or incomplete", "Export it again")
        self.says("answer", '"status": "failed"')
        self.shows_sizes(*SQUARE)
        self.assertEqual(self.portrait(), portrait)
        self.browser.refresh()
        self.says("email", "@")
        self.element("history-fold").click()
        failed, saved = self.history()
        self.assertIn("damaged or incomplete", failed)
        self.assertRegex(saved, r"^photo\.jpg.*Saved$")
        self.nothing_to_complain_of()

    @blocking
    def test_service_that_crops_says_so(self) -> None:
        """If every picture becomes square, the page says so, and offers no other shape."""
        self.says("fit", "Every picture becomes square.")
        self.edit(self.photo(size=(60, 40)))
        self.assertFalse(self.element("shapes").is_displayed())
        self.element("editor-save").click()
        self.shows_sizes((40, 40), (40, 40), (40, 40))

    @blocking
    def test_refusals_have_a_way_out(self) -> None:
        """A file that nobody can open is not sent; one sentence says why, and what to do."""
        Image.new("1", (20_000, 10)).save(self.directory / "wide.png")
        heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
        for path, *words in (
            (self.file("photo.jpg", heic), "This is a HEIC photo", "Export it as JPEG"),
            (self.file("words.png", b"text" * 100), "not a picture", "Choose a JPEG, PNG"),
            (self.file("film.mp4", b"\0\0\0\x18ftypisom" + bytes(99)), "This is a video."),
            (self.file("scan.tif", b"II*\0" + bytes(99)), "a TIFF picture", "Export it"),
            (str(self.directory / "wide.png"), "is 20,000 pixels wide; the limit is 16,384."),
            (self.file("much.avif", AVIF + bytes(9_000_000)), "8.6 MiB", "a smaller JPEG"),
        ):
            self.element("file").send_keys(path)
            self.says("picture-status", *words)
            self.assertIn(words[0], self.history()[0])
        self.assertNotIn("blob:", self.portrait())
        self.unfold()
        self.assertIn("/v1/profile", self.text("curl"))
        self.nothing_to_complain_of()

    @blocking
    def test_progress_and_cancel(self) -> None:
        """A slow upload shows progress and time left, guards the page, and can be cancelled."""
        self.until(self.portrait)
        portrait = self.portrait()
        os.kill(self.daemon.pid, signal.SIGSTOP)
        try:
            self.element("file").send_keys(self.large())
            self.says("percent", "%, about", "left")
            self.assertLess(float(self.element("progress").get_property("value")), 1)
            self.assertTrue(self.leaving_is_questioned())
            self.element("cancel").click()
            self.says("picture-status", "Cancelled.")
        finally:
            os.kill(self.daemon.pid, signal.SIGCONT)
        self.assertFalse(self.element("progress").is_displayed())
        self.assertFalse(self.leaving_is_questioned())
        self.assertEqual(self.portrait(), portrait)
        self.assertIn("Cancelled", self.history()[0])
        self.nothing_to_complain_of()

    @blocking
    def test_upload_continues_when_the_network_returns(self) -> None:
        """An upload without a network is kept, and sent by itself when the network returns."""
        self.edit(self.photo(size=(300, 300)))
        self.browser.execute_script(NEVER_BY_TIME)
        self.engine.set_offline(self.browser, True)
        try:
            self.element("editor-save").click()
            self.says("picture-status", "cannot be reached", "sent again by itself")
            self.assertTrue(self.element("retry").is_displayed())
            self.assertTrue(self.leaving_is_questioned())
        finally:
            self.engine.set_offline(self.browser, False)
        self.says("picture-status", READY)
        self.assertFalse(self.element("retry").is_displayed())

    async def test_upload_continues_with_a_click(self) -> None:
        """An upload to a service that is down is kept, and sent again with one click."""
        path = self.photo(size=(300, 300))
        await deferToThread(self.edit, path)
        await deferToThread(self.browser.execute_script, NEVER_BY_TIME)
        await self.daemon.kill()
        await deferToThread(self.element("editor-save").click)
        await deferToThread(self.says, "picture-status", "cannot be reached")
        await self.daemon.start()
        await deferToThread(self.element("retry").click)
        await deferToThread(self.says, "picture-status", READY)

    @blocking
    def test_other_tabs_follow(self) -> None:
        """Another tab shows a change at once, and one that a program made when it is looked at."""
        first = self.browser.current_window_handle
        self.browser.switch_to.new_window("tab")
        self.browser.get(self.daemon.web_url)
        self.says("email", "@")
        self.upload(self.photo(size=(600, 600)), whole=False)
        self.says("picture-status", READY)
        self.shows_sizes(*SQUARE)
        self.browser.switch_to.window(first)
        self.shows_sizes(*SQUARE)
        call_api(self.daemon, "alice", "POST", "/v1/display_name", b'{"displayName": "Ann"}')
        self.assertEqual(self.text("name"), "No name yet")
        self.browser.execute_script("dispatchEvent(new Event('focus'))")
        self.says("name", "Ann")
        self.nothing_to_complain_of()

    @blocking
    def test_delete_can_be_undone(self) -> None:
        """Delete asks; a yes can be undone for a time, and takes effect when it is over."""
        self.upload(self.photo(size=(600, 600)), whole=False)
        self.says("picture-status", READY)
        self.element("delete").click()
        self.element("question-keep").click()
        self.until(lambda: self.focused() == "delete")
        self.assertFalse(self.element("removal").is_displayed())

        self.element("delete").click()
        self.element("question-delete").click()
        self.says("picture-status", "will be deleted")
        self.assertEqual(self.text("undo"), "Undo (10 s)")
        self.assertEqual(self.portrait(), "")
        self.element("undo").click()
        self.says("picture-status", "Your picture is kept.")
        self.shows_sizes(*SQUARE)
        self.browser.refresh()
        self.shows_sizes(*SQUARE)

        self.browser.execute_script("document.getElementById('removal').dataset.seconds = 1")
        self.element("delete").click()
        self.element("question-delete").click()
        self.says("picture-status", "Your picture is deleted.")
        self.nothing_to_complain_of()

    @blocking
    def test_delete_takes_effect_when_the_page_is_left(self) -> None:
        """A page that is left before the time for an undo is over deletes the picture."""
        self.upload(self.photo(size=(600, 600)), whole=False)
        self.says("picture-status", READY)
        self.element("delete").click()
        self.element("question-delete").click()
        self.says("picture-status", "will be deleted")
        self.browser.get(f"{self.daemon.web_url}/__version__")
        self.browser.get(self.daemon.web_url)
        self.says("email", "@")

        def deleted() -> bool:
            self.browser.execute_script("dispatchEvent(new Event('focus'))")
            return not self.element("delete").is_enabled()

        self.until(deleted)


class RoleFlows:
    """The page of a service whose roles are separate processes that start and stop."""

    role = "web"
    settings = {"uploads.wait": 0}  # noqa: RUF012

    async def start(self, role: str) -> None:
        """Start another role of the same service."""
        daemon = Daemon(self.daemon.directory, role=role, ports=self.daemon.ports, preloaded=True)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        await daemon.start()

    async def test_upload_waits_for_a_worker(self) -> None:
        """An upload waits for a worker, and the page for the upload, even if it is reopened."""

        def upload() -> None:
            self.unfold()
            self.upload(self.photo(), whole=False)
            self.says("picture-status", "Processing…")
            self.says("outcome", "201 Created")
            self.browser.refresh()
            self.says("picture-status", "Processing")
            self.assertTrue(self.element("progress").is_displayed())
            self.assertFalse(self.element("cancel").is_displayed())

        def see() -> None:
            self.says("picture-status", READY)
            self.shows_sizes(*SQUARE)
            self.nothing_to_complain_of()

        await deferToThread(upload)
        await self.start("images")
        await self.start("worker")
        await deferToThread(see)

    async def test_service_outage(self) -> None:
        """If the service is unreachable the page says so, and recovers with it."""

        def rename(name: str, *words: str) -> None:
            self.element("name-field").clear()
            self.element("name-field").send_keys(name)
            self.element("name-save").click()
            self.says("name-status", *words)

        await self.daemon.kill()
        await deferToThread(rename, "Alice", "cannot be reached")
        await self.daemon.start()
        await deferToThread(rename, "Alice B", "Saved.")
        await deferToThread(self.says, "name", "Alice B")

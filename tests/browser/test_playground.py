"""The playground page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.browser import chromium
from tests.browser.case import BrowserTestCase, blocking
from tests.support.daemon import Daemon

#: The status line after a successful upload.
READY = "This is your avatar now."


class PlaygroundTests(BrowserTestCase):
    """The page with a mouse and with a keyboard."""

    @blocking
    def test_upload_name_and_delete(self) -> None:
        """
        A developer can select an account, upload a picture and see it in three sizes, set a
        name that persists, read why a file was refused, and delete the picture.
        """
        self.choose("bob@example.com")
        self.assertEqual(self.text("name"), "No name yet")
        self.assertFalse(self.element("delete").is_enabled())

        self.upload(self.photo())
        self.says("picture-status", READY)
        self.shows_sizes((100, 75), (200, 150), (600, 450))
        self.assertIn("--data-binary @photo.jpg", self.text("curl"))
        self.assertIn("Authorization: Bearer bob", self.text("curl"))
        self.says("outcome", "201 Created")

        name = self.element("name-field")
        name.send_keys("Bob's <b>name</b>")
        self.element("name-save").click()
        self.says("name-status", "Saved.")
        self.says("name", "Bob's <b>name</b>")
        self.assertIn(r"Bob'\''s", self.text("curl"))

        self.browser.refresh()
        self.says("email", "bob@example.com")
        self.says("name", "Bob's <b>name</b>")
        self.assertEqual(self.element("name-field").get_property("value"), "Bob's <b>name</b>")
        self.shows_sizes((100, 75), (200, 150), (600, 450))

        self.nothing_to_complain_of()
        self.upload(self.file("words.png", b"This is a text.\n" * 100))
        self.says("picture-status", "not a JPEG, PNG, GIF, WebP or AVIF image")
        self.says("answer", '"errno": 103')
        self.shows_sizes((100, 75), (200, 150), (600, 450))
        self.nothing_to_complain_of("status of 422")

        self.choose("alice@example.com")
        self.says("name", "No name yet")
        self.choose("bob@example.com")
        self.until(self.element("delete").is_enabled)
        self.element("delete").click()
        self.says("picture-status", "deleted")
        self.until(lambda: not self.element("delete").is_enabled())
        self.element("name-clear").click()
        self.says("name", "No name yet")
        self.says("name-status", "Removed.")
        self.nothing_to_complain_of()

    @blocking
    def test_page_works_with_a_keyboard(self) -> None:
        """Everything works with the keyboard, and the focus is always visible."""
        self.press(Keys.TAB, Keys.ARROW_RIGHT)
        self.says("email", "bob@example.com")

        self.tab_to("name-field")
        self.press("Bob", Keys.ENTER)
        self.says("name", "Bob")

        self.tab_to("file")
        # The file dialog is the browser's own: this is how a driver answers it.
        self.browser.switch_to.active_element.send_keys(self.photo())
        self.says("picture-status", READY)
        self.shows_sizes((100, 75), (200, 150), (600, 450))

        self.tab_to("delete")
        self.press(Keys.ENTER)
        self.says("picture-status", "deleted")
        self.until(lambda: self.focused() == "file")

        self.tab_to("copy")
        self.press(Keys.SPACE)
        self.until(lambda: self.text("copy") in ("Copied", "Selected"))
        self.nothing_to_complain_of()

    @blocking
    def test_placeholder_resembles_the_picture(self) -> None:
        """The placeholder has the colours of the picture in their places."""
        picture = Image.new("RGB", (400, 300), "red")
        picture.paste("blue", (200, 0, 400, 300))
        picture.save(self.directory / "halves.png")
        self.assertFalse(self.element("placeholder").is_displayed())
        self.upload(str(self.directory / "halves.png"))
        self.says("picture-status", READY)
        self.until(self.element("placeholder").is_displayed)
        self.assertEqual(len(self.text("blurhash")), 28)
        script = (
            "const context = document.getElementById('blur').getContext('2d');"
            "const row = context.getImageData(0, 16, 32, 1).data;"
            "return [2, 29].map(x => [...row.slice(4 * x, 4 * x + 4)]);"
        )
        left, right = self.browser.execute_script(script)
        self.assertTrue(left[0] > 200 > 2 * left[1] and left[2] < 150, left)
        self.assertTrue(right[2] > 200 > 2 * right[1] and right[0] < 150, right)
        self.element("delete").click()
        self.until(lambda: not self.element("placeholder").is_displayed())
        self.nothing_to_complain_of()

    @blocking
    def test_invalid_name_is_explained(self) -> None:
        """An invalid name is refused with an explanation, and the name before it stays."""
        self.element("name-field").send_keys("Alice")
        self.element("name-save").click()
        self.says("name", "Alice")
        self.element("name-field").send_keys("!" * 256)
        self.element("name-save").click()
        self.says("name-status", "at most 256 characters")
        self.assertEqual(self.element("name-field").get_attribute("aria-invalid"), "true")
        self.assertEqual(self.text("name"), "Alice")
        self.nothing_to_complain_of("status of 400")

    @blocking
    def test_dropped_file_is_uploaded(self) -> None:
        """A file that is dropped anywhere on the page is uploaded."""
        self.photo("dropped.png", (60, 40))
        data = list((self.directory / "dropped.png").read_bytes())
        self.browser.execute_script(
            "const transfer = new DataTransfer();"
            "transfer.items.add(new File([new Uint8Array(arguments[0])], 'dropped.png',"
            " {type: 'image/png'}));"
            "const event = (kind) => new DragEvent(kind,"
            " {dataTransfer: transfer, bubbles: true, cancelable: true});"
            "document.body.dispatchEvent(event('dragenter'));"
            "window.taken = !document.body.dispatchEvent(event('dragover'));"
            "document.body.dispatchEvent(event('drop'));",
            data,
        )
        self.assertTrue(self.browser.execute_script("return window.taken"))
        self.says("picture-status", READY)
        self.shows_sizes((60, 40), (60, 40), (60, 40))
        self.nothing_to_complain_of()

    @blocking
    def test_pasted_image_is_uploaded(self) -> None:
        """A pasted image is uploaded."""
        self.browser.execute_cdp_cmd(
            "Browser.grantPermissions",
            {
                "origin": self.daemon.web_url,
                "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
            },
        )
        self.photo("copied.png", (50, 70))
        copied = self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "const image = new Blob([new Uint8Array(arguments[0])], {type: 'image/png'});"
            "navigator.clipboard.write([new ClipboardItem({'image/png': image})])"
            ".then(() => done(''), (error) => done(String(error)));",
            list((self.directory / "copied.png").read_bytes()),
        )
        self.assertEqual(copied, "")
        self.element("name-field").click()
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys("v").key_up(
            Keys.CONTROL
        ).perform()
        self.says("picture-status", READY)
        self.shows_sizes((50, 70), (50, 70), (50, 70))
        self.assertEqual(self.element("name-field").get_property("value"), "")
        self.nothing_to_complain_of()

    @blocking
    def test_policy_is_enforced(self) -> None:
        """The page cannot load foreign resources or run inline scripts and styles."""
        refused = self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1], refused = new Set();"
            "addEventListener('securitypolicyviolation', (event) => {"
            " refused.add(event.effectiveDirective);"
            " if (refused.size === 4) done([...refused].sort()); });"
            "const add = (name, what) =>"
            " document.body.append(Object.assign(document.createElement(name), what));"
            "add('img', {src: 'http://127.0.0.1:9/elsewhere.png'});"
            "add('script', {textContent: 'window.ran = true'});"
            "add('p', {innerHTML: '<b style=\"color: red\">red</b>'});"
            "fetch('http://127.0.0.1:9/').catch(() => null);"
        )
        self.assertEqual(refused, ["connect-src", "img-src", "script-src-elem", "style-src-attr"])
        self.assertIsNone(self.browser.execute_script("return window.ran"))
        self.assertGreaterEqual(len(chromium.complaints(self.browser)), 4)


class SlowPlaygroundTests(BrowserTestCase):
    """The page of a service that answers an upload before its result."""

    settings: ClassVar[dict[str, object]] = {"uploads.wait": 0, "uploads.max_bytes": 2_000_000}

    @blocking
    def test_page_polls_for_the_result(self) -> None:
        """The page polls until the upload is ready or has failed."""
        self.upload(self.photo())
        self.says("picture-status", READY)
        self.shows_sizes((100, 75), (200, 150), (600, 450))
        self.says("outcome", "200 OK")
        self.assertIn("/v1/avatar/upload/", self.text("curl"))

        damaged = Path(self.photo("damaged.png")).read_bytes()[:5000]
        self.upload(self.file("damaged.png", damaged))
        self.says("picture-status", "damaged or incomplete")
        self.says("answer", '"status": "failed"')
        self.shows_sizes((100, 75), (200, 150), (600, 450))
        self.nothing_to_complain_of()

    @blocking
    def test_large_file_is_not_sent(self) -> None:
        """A file over the size limit is not sent."""
        self.upload(self.file("large.jpg", bytes(2_000_001)))
        self.says("picture-status", "large.jpg", "at most 1.9 MiB")
        self.assertIn("/v1/profile", self.text("curl"))
        self.nothing_to_complain_of()

    @blocking
    def test_progress_and_cancel(self) -> None:
        """A slow upload shows its progress, and can be cancelled."""
        self.browser.execute_cdp_cmd("Network.enable", {})
        self.browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000},
        )
        self.upload(self.photo(size=(1600, 1200)))
        self.until(lambda: self.text("percent") not in ("", "0 %", "100 %"))
        self.assertLess(float(self.element("progress").get_property("value")), 1)
        self.element("cancel").click()
        self.says("picture-status", "Cancelled.")
        self.assertFalse(self.element("progress").is_displayed())
        self.browser.refresh()
        self.says("source", "No avatar yet")
        self.nothing_to_complain_of()


class SpreadPlaygroundTests(BrowserTestCase):
    """The page of a service whose roles are separate processes that start and stop."""

    role = "web"
    settings: ClassVar[dict[str, object]] = {"uploads.wait": 0}

    async def start(self, role: str) -> None:
        """Start another role of the same service."""
        daemon = Daemon(self.daemon.directory, role=role, ports=self.daemon.ports)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        await daemon.start()

    async def test_upload_waits_for_a_worker(self) -> None:
        """An upload waits for a worker, and the page for the upload, even if it is reopened."""

        def upload() -> None:
            self.upload(self.photo())
            self.says("picture-status", "Processing…")
            self.says("outcome", "201 Created")
            self.browser.refresh()
            self.says("picture-status", "Processing")
            self.assertTrue(self.element("progress").is_displayed())
            self.assertFalse(self.element("cancel").is_displayed())

        def see() -> None:
            self.says("picture-status", READY)
            self.shows_sizes((100, 75), (200, 150), (600, 450))
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

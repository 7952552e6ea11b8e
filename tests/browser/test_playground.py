"""
The playground page, as a person with a browser meets it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.browser import chromium
from tests.daemon import Daemon

READY = "This is your avatar now."


def blocking(flow: Callable[[Any], None]) -> Callable[[Any], Deferred[None]]:
    """Run a test, which waits for the browser, in a thread."""

    @wraps(flow)
    def test(self: Any) -> Deferred[None]:
        return deferToThread(flow, self)

    return test


class BrowserTestCase(TestCase):
    """
    A daemon, and a browser that has opened its page.

    :cvar settings: those of the daemon.
    """

    skip = chromium.missing()
    timeout = 240
    settings: ClassVar[dict[str, object]] = {}

    async def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="fxprofile-browser-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.daemon = Daemon(settings=self.settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.daemon.remove()))
        await self.daemon.start()
        self.browser = await deferToThread(chromium.start, self.directory / "browser")
        self.addCleanup(deferToThread, self.browser.quit)
        await deferToThread(self.open)

    def open(self) -> None:
        self.browser.get(self.daemon.web_url)
        self.until(lambda: "@" in self.text("email"))

    def photo(self, name: str = "photo.jpg", size: tuple[int, int] = (1200, 900)) -> str:
        """The path of a picture of this size, with noise in it so that it is not small."""
        path = self.directory / name
        Image.effect_noise(size, 80).convert("RGB").save(path)
        return str(path)

    def file(self, name: str, data: bytes) -> str:
        """The path of a file with this in it."""
        path = self.directory / name
        path.write_bytes(data)
        return str(path)

    def element(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.element(name).text

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, chromium.PATIENCE, 0.05).until(lambda _: condition())

    def says(self, name: str, *words: str) -> None:
        """Wait until one of the status lines says these words."""
        try:
            self.until(lambda: all(word in self.text(name) for word in words))
        except Exception:
            raise AssertionError(f"{name} says {self.text(name)!r}, not {words}") from None

    def choose(self, email: str) -> None:
        """Choose the account with this address."""
        self.browser.find_element(By.XPATH, f"//label[span[text()='{email}']]").click()
        self.says("email", email)

    def upload(self, path: str) -> None:
        self.element("file").send_keys(path)

    def sizes(self) -> list[tuple[str, int, int]]:
        """The address and the sides of each picture, 0 if it is not there."""
        script = (
            "return [...document.querySelectorAll('#sizes img')]"
            ".map(i => [i.src, i.complete ? i.naturalWidth : 0, i.complete ? i.naturalHeight : 0])"
        )
        return [tuple(found) for found in self.browser.execute_script(script)]

    def shows_sizes(self, *sides: tuple[int, int]) -> None:
        """Wait until there are pictures of these sides, from the images' own origin."""

        def shown() -> bool:
            sizes = self.sizes()
            ours = all(url.startswith(f"{self.daemon.images_url}/a/") for url, _, _ in sizes)
            return ours and [found[1:] for found in sizes] == list(sides)

        self.until(shown)

    def press(self, *keys: str) -> None:
        """Press these keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def focused(self) -> str:
        """The id of what has the focus."""
        found: str = self.browser.execute_script("return document.activeElement.id")
        return found

    def tab_to(self, name: str) -> None:
        """Go on by Tab until this has the focus, and can be seen to have it."""
        for _ in range(20):
            self.press(Keys.TAB)
            if self.focused() == name:
                break
        else:
            self.fail(f"Tab does not lead to {name}")
        ringed = self.browser.execute_script(
            "for (let e = document.activeElement; e && e !== document.body; e = e.parentElement)"
            " if (getComputedStyle(e).outlineStyle === 'solid') return true;"
            "return false"
        )
        self.assertTrue(ringed, f"nothing shows that {name} has the focus")

    def nothing_to_complain_of(self, *but: str) -> None:
        """The browser saw no error and no violation, but for one each with these words."""
        left = chromium.complaints(self.browser)
        for words in but:
            found = [line for line in left if words in line]
            self.assertEqual(len(found), 1, (words, left))
            left.remove(found[0])
        self.assertEqual(left, [])


class PlaygroundTests(BrowserTestCase):
    """The page with a mouse, and without one."""

    @blocking
    def test_whole_flow(self) -> None:
        """
        Whoever opens the page can choose an account, upload a picture and see it in three
        sizes, set a name that is still there later, read what was wrong with a file, and
        delete the picture again.
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
        self.says("name-status", "Unset.")
        self.nothing_to_complain_of()

    @blocking
    def test_keyboard(self) -> None:
        """All of it works without a mouse, and one always sees where one is."""
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
    def test_name_refused(self) -> None:
        """A name that may not be is refused in words, and the one before it stays."""
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
    def test_drop(self) -> None:
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
    def test_policy(self) -> None:
        """The page may load nothing from elsewhere, and has no script or style in its text."""
        self.browser.execute_script(
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}));"
            "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')"
        )
        self.until(lambda: self.element("notice") is not None)
        self.nothing_to_complain_of("img-src", "style-src")


class SlowPlaygroundTests(BrowserTestCase):
    """The page of a service that answers an upload before it has looked at the image."""

    settings: ClassVar[dict[str, object]] = {"uploads.wait": 0, "uploads.max_bytes": 2_000_000}

    @blocking
    def test_processing(self) -> None:
        """The page asks until it is known what became of an upload, good or bad."""
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
    def test_too_large(self) -> None:
        """A file that is too large is not even sent."""
        self.upload(self.file("large.jpg", bytes(2_000_001)))
        self.says("picture-status", "large.jpg", "at most 1.9 MiB")
        self.assertIn("/v1/profile", self.text("curl"))
        self.nothing_to_complain_of()

    @blocking
    def test_progress(self) -> None:
        """A slow upload is seen to progress, and can be given up."""
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

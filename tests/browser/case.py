"""The base of the tests of a page in a browser."""

from __future__ import annotations

import atexit
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from pathlib import Path
from types import ModuleType
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
from tests.support.daemon import Daemon

#: The daemon that runs for the tests of a class.
_daemons: dict[type, Daemon] = {}

#: Tests call more often than people.
UNLIMITED: dict[str, object] = {"uploads.per_hour": 0, "limits.writes_per_minute": 0}

UNNAMED = b'{"displayName": ""}'


def blocking(flow: Callable[[Any], None]) -> Callable[[Any], Deferred[None]]:
    """Run a test in a thread, because it waits for the browser."""

    @wraps(flow)
    def test(self: Any) -> Deferred[None]:
        return deferToThread(flow, self)

    return test


def call_api(daemon: Daemon, token: str, method: str, path: str, data: bytes | None = None) -> None:
    """Call the API; a 404 of a delete is no error."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(daemon.web_url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=chromium.PATIENCE):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise


class BrowserTestCase(TestCase):
    """
    A daemon that the tests of a class share, and its page in a browser that all tests share.

    :cvar engine: the module of the browser.
    :cvar role: of the daemon.
    :cvar settings: those of the daemon.
    """

    engine: ClassVar[ModuleType] = chromium
    skip = chromium.missing()
    timeout = 240
    role = "combined"
    settings: ClassVar[dict[str, object]] = {}

    async def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="fxprofile-browser-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.daemon = await self._daemon()
        self.browser = self.engine.shared()
        await deferToThread(self.open)

    async def _daemon(self) -> Daemon:
        for case in set(_daemons) - {type(self)}:
            await _daemons.pop(case).remove()
        daemon = _daemons.get(type(self))
        if daemon is None:
            daemon = _daemons[type(self)] = Daemon(
                role=self.role, settings={**UNLIMITED, **self.settings}, preloaded=True
            )
            await daemon.start()
            atexit.register(daemon.close)
        await deferToThread(self.reset, daemon)
        return daemon

    def reset(self, daemon: Daemon) -> None:
        """Remove what the test before has left."""
        for token in ("alice", "bob"):
            call_api(daemon, token, "DELETE", "/v1/avatar")
            call_api(daemon, token, "POST", "/v1/display_name", UNNAMED)

    def open(self) -> None:
        """Open the page in a new tab without the storage of the test before."""
        last = self.browser.window_handles
        self.browser.switch_to.new_window("tab")
        opened = self.browser.current_window_handle
        for tab in last:
            self.browser.switch_to.window(tab)
            self.browser.close()
        self.browser.switch_to.window(opened)
        self.engine.bring_to_front(self.browser)
        self.browser.get(f"{self.daemon.web_url}/__version__")
        self.browser.execute_script("localStorage.clear()")
        self.engine.complaints(self.browser)
        self.browser.get(self.daemon.web_url)
        self.until(lambda: "@" in self.text("email"))

    def photo(self, name: str = "photo.jpg", size: tuple[int, int] = (1200, 900)) -> str:
        """Return the path of a picture of this size, with noise so that the file is not small."""
        path = self.directory / name
        Image.effect_noise(size, 80).convert("RGB").save(path)
        return str(path)

    def file(self, name: str, data: bytes) -> str:
        """Return the path of a file with this content."""
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
        """Wait until one of the status lines contains these words."""
        try:
            self.until(lambda: all(word in self.text(name) for word in words))
        except Exception:
            raise AssertionError(f"{name} says {self.text(name)!r}, not {words}") from None

    def choose(self, email: str) -> None:
        """Select the account with this address."""
        self.browser.find_element(By.XPATH, f"//label[span[text()='{email}']]").click()
        self.says("email", email)

    def edit(self, path: str) -> None:
        """Choose a file, and wait for the editor."""
        self.element("file").send_keys(path)
        self.until(self.element("editor").is_displayed)

    def upload(self, path: str, *, whole: bool = True) -> None:
        """Choose a file, and save it: all of it, or the square in its centre."""
        self.edit(path)
        if whole:
            self.element("shape-whole").click()
        self.element("editor-save").click()

    def unfold(self) -> None:
        """Show what is for developers."""
        if not self.element("developer").get_property("open"):
            self.element("developer-fold").click()

    def delete(self) -> None:
        """Delete the avatar, without time to undo it."""
        self.until(self.element("delete").is_enabled)
        self.element("delete").click()
        self.element("question-delete").click()
        self.element("delete-now").click()
        self.says("picture-status", "deleted")

    def run_script(self, script: str, *arguments: object) -> Any:
        """Return what an asynchronous function with this body returns in the page."""
        return self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{ {script} }})().then(done, (error) => done(`failed: ${{error}}`));",
            *arguments,
        )

    def refused_by_policy(self, attempts: str, number: int) -> list[str]:
        """
        Return the directives of the Content Security Policy that are violated, in their order.

        :param attempts: a script; its function ``add(name, properties)`` appends an element.
        :param number: of directives to wait for.
        """
        refused: list[str] = self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1], refused = new Set();"
            "addEventListener('securitypolicyviolation', (event) => {"
            " refused.add(event.effectiveDirective);"
            f" if (refused.size === {number}) done([...refused].sort()); }});"
            "const add = (name, what) =>"
            " document.body.append(Object.assign(document.createElement(name), what));" + attempts
        )
        return refused

    def avatar(self) -> Image.Image:
        """Return the large size of the avatar that the page shows."""
        with urllib.request.urlopen(self.sizes()[2][0], timeout=chromium.PATIENCE) as response:
            return Image.open(BytesIO(response.read())).convert("RGB")

    def sizes(self) -> list[tuple[str, int, int]]:
        """Return the URL and the sides of each picture; the sides are 0 if it is not loaded."""
        script = (
            "return [...document.querySelectorAll('#sizes img')]"
            ".map(i => [i.src, i.complete ? i.naturalWidth : 0, i.complete ? i.naturalHeight : 0])"
        )
        return [tuple(found) for found in self.browser.execute_script(script)]

    def shows_sizes(self, *sides: tuple[int, int]) -> None:
        """Wait until pictures of these sides are shown, from the origin of the images."""

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
        """Return the id of the focused element."""
        found: str = self.browser.execute_script("return document.activeElement.id")
        return found

    def tab_to(self, name: str) -> None:
        """Press Tab until this element has the focus, and check that the focus is visible."""
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
        """
        Check that the browser logged no errors and no violations, except one for each of
        these words.
        """
        left = self.engine.complaints(self.browser)
        if not self.engine.LOGS_STATUSES:
            but = tuple(words for words in but if "status of" not in words)
        for words in but:
            found = [line for line in left if words in line]
            self.assertEqual(len(found), 1, (words, left))
            left.remove(found[0])
        self.assertEqual(left, [])

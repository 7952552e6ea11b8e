"""The status page in a browser."""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request, urlopen

from twisted.internet.threads import deferToThread

from tests.browser import chromium
from tests.browser.case import BrowserTestCase, blocking
from tests.support.daemon import Daemon


class StatusCase(BrowserTestCase):
    """The status page of a daemon."""

    def reset(self, daemon: Daemon) -> None:
        """Do nothing: the plots do not depend on avatars."""

    def open(self) -> None:
        chromium.complaints(self.browser)
        self.browser.get(self.daemon.admin_url)
        self.until(lambda: self.text("health") == "Healthy")

    def titles(self) -> set[str]:
        """Return the titles of the plots that are shown."""
        shown = "[...document.querySelectorAll('figure:not([hidden])')]"
        return set(self.browser.execute_script(f"return {shown}.map((f) => f.dataset.title)"))

    def plot(self, title: str) -> str:
        """Return what a plot is described as: each line with its current value."""
        # In one step, since the page draws it again and again.
        script = "return document.querySelector(arguments[0])?.getAttribute('aria-label') ?? ''"
        found: str = self.browser.execute_script(script, f"[data-title='{title}'] svg")
        return found


class CombinedStatusTests(StatusCase):
    """The status page of a process with every role."""

    @blocking
    def test_plots_follow_an_upload(self) -> None:
        """The plots show an upload, its crunch and the latency of requests soon after them."""
        self.until(lambda: "ready: 0" in self.plot("Crunches, by outcome"))
        headers = {"Authorization": "Bearer alice", "Content-Type": "image/jpeg"}
        image = Path(self.photo()).read_bytes()
        request = Request(f"{self.daemon.web_url}/v1/avatar/upload", image, headers)
        urlopen(request, timeout=chromium.PATIENCE).close()
        self.until(lambda: "accepted: 0." in self.plot("Uploads"))
        self.until(lambda: "ready: 0." in self.plot("Crunches, by outcome"))
        self.until(lambda: "99 %" in self.plot("Latency"))
        self.until(lambda: "jobs visible: 0" in self.plot("Queue depth"))
        self.until(lambda: "600 s or more: 0" in self.plot("Pending rows, by age"))
        self.assertRegex(self.plot("Memory"), r": [1-9]")
        self.assertIn("database ok", self.text("checks"))
        self.assertIn("no_new_privs: in force", self.text("layers"))
        self.assertIn("fxprofile", self.text("version"))
        self.nothing_to_complain_of()

    @blocking
    def test_policy_is_enforced(self) -> None:
        """The page cannot run other scripts, apply other styles or contact other servers."""
        refused = self.refused_by_policy(
            "add('script', {textContent: 'window.ran = true'});"
            "add('style', {textContent: 'p {color: red}'});"
            "fetch('http://127.0.0.1:9/').catch(() => null);",
            3,
        )
        self.assertEqual(refused, ["connect-src", "script-src-elem", "style-src-elem"])
        self.assertGreaterEqual(len(chromium.complaints(self.browser)), 3)


class ImagesStatusTests(StatusCase):
    """The status page of the images role."""

    role = "images"

    @blocking
    def test_role_has_its_own_plots(self) -> None:
        """Each role shows the plots that concern it, and the checks of its dependencies."""
        self.until(self.titles)
        self.assertEqual(self.titles(), {"Requests", "Latency", "Memory", "Processor"})
        self.assertEqual(self.text("role"), "images")
        self.assertIn("public bucket ok", self.text("checks"))

    async def test_unreachable_process(self) -> None:
        """If the process is down the page says so, and it recovers with the process."""
        await self.daemon.kill()
        await deferToThread(self.says, "health", "cannot be reached")
        await self.daemon.start()
        await deferToThread(self.says, "health", "Healthy")

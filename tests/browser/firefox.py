"""
A headless Firefox for tests.
"""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from selenium import webdriver
from selenium.webdriver.remote.file_detector import UselessFileDetector
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser.marionette import Marionette
from tests.support.servers.local import die_with_parent

#: Seconds that the page gets to do what it should.
PATIENCE = 30

#: Whether it logs responses with the status of an error.
LOGS_STATUSES = False

_BROWSERS = ("firefox-esr", "firefox")

_PREFERENCES: Final[dict[str, object]] = {
    "marionette.port": 0,
    # A camera that sends a moving pattern, and may be used.
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "browser.shell.checkDefaultBrowser": False,
    # Otherwise a JSON document is a page with an origin of its own.
    "devtools.jsonview.enabled": False,
    "browser.startup.page": 0,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.disabledForTesting": True,
    "app.normandy.enabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.server": "",
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.allow_hijacking_localhost": True,
    "network.manage-offline-status": False,
}


def missing() -> str | None:
    """Return why there is no browser, or None."""
    return None if _program() else "firefox-esr is not installed"


@cache
def shared() -> WebDriver:
    """
    Return the browser of this test run; the first call starts it, which blocks.

    The browser ends with the thread of the first call, so a killed test run leaves none.
    """
    profile = Path(tempfile.mkdtemp(prefix="fxprofile-firefox-"))
    atexit.register(shutil.rmtree, profile, ignore_errors=True)
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in _PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    program = _program() or ""
    process = subprocess.Popen(
        [
            *(program, "--headless", "--no-remote", "--marionette"),
            *("--remote-allow-system-access", "--profile", str(profile)),
            *("--width=1280", "--height=900"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    atexit.register(process.wait)
    atexit.register(process.terminate)
    marionette = Marionette(_port(profile, process))
    browser = webdriver.Remote(marionette, options=webdriver.FirefoxOptions())  # type: ignore[arg-type]
    # Files are on the same machine, and are not sent to it.
    browser.file_detector = UselessFileDetector()
    browser.set_page_load_timeout(PATIENCE)
    browser.set_script_timeout(PATIENCE)
    return browser


def complaints(browser: WebDriver) -> list[str]:
    """
    Return the errors and violations that the browser logged since the last call.

    Unlike Chromium, Firefox does not log responses with an error status.
    """
    script = """
        const found = Services.console.getMessageArray().filter((each) =>
          each instanceof Ci.nsIScriptError && /content|CSP|CORS|Security/.test(each.category)
            && !(each.flags & Ci.nsIScriptError.warningFlag));
        Services.console.reset();
        return found.map((each) => each.errorMessage);
    """
    found: list[str] = _as_browser(browser, script)
    return found


def set_offline(browser: WebDriver, offline: bool) -> None:
    """
    Disconnect the browser from the network, or connect it again.

    Offline, Firefox would still reach this machine, so it also gets a proxy that does not exist.
    """
    script = """
        Services.prefs.setIntPref("network.proxy.type", arguments[0] ? 1 : 0);
        Services.io.offline = arguments[0];
    """
    _as_browser(browser, script, offline)


def resize(browser: WebDriver, width: int, height: int) -> None:
    """Give the page this size, in CSS pixels; a window has at least 500."""
    style = "window.gBrowser.selectedBrowser.style"
    _as_browser(browser, f"{style}.maxWidth = `${{arguments[0]}}px`; {style}.minWidth = 0", width)
    browser.set_window_size(width, height + 86)


def prefer(browser: WebDriver, feature: str, value: str) -> None:
    """Set a preference of the user that style sheets can ask for; empty: none."""
    script = {
        "prefers-color-scheme": "Services.prefs.setIntPref('layout.css.prefers-color-scheme."
        "content-override', {dark: 0, light: 1}[arguments[0]] ?? 2)",
        "prefers-reduced-motion": "Services.prefs.setIntPref('ui.prefersReducedMotion',"
        " arguments[0] === 'reduce' ? 1 : 0)",
        "forced-colors": "Services.prefs.setIntPref('browser.display.document_color_use',"
        " arguments[0] === 'active' ? 2 : 0)",
    }[feature]
    _as_browser(browser, script, value)


def bring_to_front(browser: WebDriver) -> None:
    """Do nothing: the current tab is in front."""


def _as_browser(browser: WebDriver, script: str, *arguments: object) -> Any:
    """Run a script with the rights of the browser itself."""
    marionette: Any = browser.command_executor
    marionette.send("Marionette:SetContext", {"value": "chrome"})
    try:
        return browser.execute_script(script, *arguments)
    finally:
        marionette.send("Marionette:SetContext", {"value": "content"})


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait until Firefox has written the port of Marionette into its profile."""
    path = profile / "MarionetteActivePort"
    end = time.monotonic() + 2 * PATIENCE
    while not (path.exists() and path.read_text()):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"Firefox does not start: {process.poll()}")
        time.sleep(0.1)
    return int(path.read_text())


def _program() -> str | None:
    return next((path for path in map(shutil.which, _BROWSERS) if path), None)

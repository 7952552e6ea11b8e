"""
A headless Chromium for tests.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.support.servers.local import die_with_parent

#: Seconds that the page gets to do what it should.
PATIENCE = 30

#: Whether it logs responses with the status of an error.
LOGS_STATUSES = True

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # It ends when its driver does, however that comes about.
    "--remote-debugging-pipe",
    "--window-size=1280,900",
    # A camera that sends a moving pattern, and may be used.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def missing() -> str | None:
    """Return why there is no browser, or None."""
    for names in (_BROWSERS, ("chromedriver",)):
        if _which(*names) is None:
            return f"{names[0]} is not installed"
    return None


@cache
def shared() -> webdriver.Chrome:
    """
    Return the browser of this test run; the first call starts it, which blocks.

    The browser ends with the thread of the first call, so a killed test run leaves none.
    """
    directory = tempfile.mkdtemp(prefix="fxprofile-chromium-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    options = webdriver.ChromeOptions()
    options.binary_location = _which(*_BROWSERS) or ""
    for flag in _FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={directory}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(_which("chromedriver"), popen_kw={"preexec_fn": die_with_parent})
    browser = webdriver.Chrome(options=options, service=service)
    atexit.register(browser.quit)
    browser.set_page_load_timeout(PATIENCE)
    browser.set_script_timeout(PATIENCE)
    return browser


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Return the errors and violations that the browser logged since the last call."""
    entries: list[dict[str, Any]] = browser.get_log("browser")
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


def set_offline(browser: webdriver.Chrome, offline: bool) -> None:
    """Disconnect the current tab from the network, or connect it again."""
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
    )


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """Give the page this size, in CSS pixels."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def prefer(browser: webdriver.Chrome, feature: str, value: str) -> None:
    """Set a preference of the user that style sheets can ask for; empty: none."""
    features = [{"name": feature, "value": value}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def bring_to_front(browser: webdriver.Chrome) -> None:
    """Show the current tab."""
    browser.execute_cdp_cmd("Page.bringToFront", {})


def _which(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)

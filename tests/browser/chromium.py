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


def _which(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)

"""
axe-core, which finds barriers for people with disabilities.

``axe.min.js`` is the file of the npm package axe-core 4.14.1, under the Mozilla Public License
2.0; a test compares its SHA-256 with the one below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from selenium.webdriver.remote.webdriver import WebDriver

PATH: Final = Path(__file__).with_name("axe.min.js")
SHA256: Final = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

#: The success criteria of WCAG 2.2 of the levels A and AA, and axe's own best practices.
_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def barriers(browser: WebDriver) -> list[str]:
    """Return the barriers of the current page, each with the elements that have it."""
    if not browser.execute_script("return Boolean(window.axe)"):
        browser.execute_script(PATH.read_text() + "; window.axe = axe")
    found: list[dict[str, Any]] = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        # Colours are right only when their transitions have ended.
        "const finite = document.getAnimations().filter("
        "(each) => each.effect.getComputedTiming().endTime < Infinity);"
        "const options = {runOnly: arguments[0], resultTypes: ['violations']};"
        "Promise.allSettled(finite.map((each) => each.finished))"
        ".then(() => window.axe.run(document, options))"
        ".then(({violations}) => done(JSON.parse(JSON.stringify(violations))),"
        " (error) => done([{id: String(error), nodes: []}]));",
        _TAGS,
    )
    return [
        f"{each['id']}: {[(node['target'], node['failureSummary']) for node in each['nodes']]}"
        for each in found
    ]

"""
Take the pictures of the page that the documentation shows.

    python -m tests.browser.screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

import fxprofile
from tests.browser import chromium
from tests.support.daemon import Daemon

FOLDER = Path(fxprofile.__file__).parents[1] / "docs/images"

#: The time in which the page does what it was asked to, and its colours have changed.
SETTLED = 2


class Photographer:
    """
    Somebody who uses the page, and takes pictures of it.

    :param browser: with the page open.
    :param folder: of the pictures.
    """

    def __init__(self, browser: WebDriver, folder: Path) -> None:
        self.browser = browser
        self.folder = folder
        self.photo = folder / "photo.jpg"

    def click(self, *names: str) -> None:
        """Click on elements, by their ids."""
        for name in names:
            self.browser.find_element(By.ID, name).click()
        time.sleep(SETTLED)

    def choose_photo(self) -> None:
        """Open a photo in the editor."""
        self.browser.find_element(By.ID, "file").send_keys(str(self.photo))
        time.sleep(SETTLED)

    def resize(self, width: int, height: int) -> None:
        """Give the page this size."""
        chromium.resize(self.browser, width, height)
        time.sleep(SETTLED)

    def take(self, name: str) -> None:
        """Take a picture."""
        self.browser.save_screenshot(str(self.folder / f"{name}.png"))


def draw_portrait() -> Image.Image:
    """Return the portrait of somebody on a meadow."""
    picture = Image.new("RGB", (3000, 2000))
    draw = ImageDraw.Draw(picture)
    for y in range(2000):
        draw.line((0, y, 3000, y), fill=(90 + y // 20, 150 + y // 40, 230 - y // 16))
    draw.ellipse((950, 1200, 2050, 2600), fill="#3c50a0")
    draw.rectangle((1420, 1050, 1580, 1300), fill="#e0b898")
    draw.ellipse((1200, 500, 1800, 1180), fill="#f0c8aa")
    draw.chord((1180, 430, 1820, 1000), 180, 360, fill="#50321e")
    for x in (1380, 1580):
        draw.ellipse((x, 800, x + 44, 860), fill="#302018")
    draw.arc((1380, 860, 1620, 1040), 30, 150, fill="#a04a40", width=16)
    return picture.filter(ImageFilter.GaussianBlur(4))


def photograph(url: str, folder: Path) -> None:
    """Take all pictures of the page at a URL.  This blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    browser = chromium.shared()
    one = Photographer(browser, folder)
    draw_portrait().save(one.photo, quality=90)
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    one.resize(1280, 860)
    browser.get(url)
    one.choose_photo()
    one.click("zoom-in", "zoom-in", "zoom-in")
    one.take("page-editor")
    one.click("editor-save")
    browser.find_element(By.ID, "name-field").send_keys("Alice")
    one.resize(1280, 480)
    one.click("name-save")
    one.take("page")
    chromium.prefer(browser, "prefers-color-scheme", "dark")
    one.click("delete", "question-delete")
    one.take("page-dark")
    one.click("undo")
    chromium.prefer(browser, "prefers-color-scheme", "")
    one.resize(360, 740)
    one.take("page-small")
    one.choose_photo()
    one.take("page-editor-small")
    one.click("editor-cancel", "developer-fold")
    one.resize(1280, 900)
    browser.execute_script("document.getElementById('developer').scrollIntoView()")
    one.take("page-developers")
    one.photo.unlink()


async def main(reactor: object, folder: str = str(FOLDER)) -> None:
    """Start the service, and take the pictures."""
    async with Daemon() as daemon:
        await deferToThread(photograph, daemon.web_url, Path(folder))


if __name__ == "__main__":
    react(main, sys.argv[1:])

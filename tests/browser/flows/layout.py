"""How the page looks: on small and large screens, zoomed, in the dark, and without motion."""

from __future__ import annotations

import json

from tests.browser.axe import barriers
from tests.browser.case import blocking, call_api
from tests.browser.flows.profile import READY

#: The elements that stick out of their dialog or the page, and controls under 44 pixels.
FAULTS = """
  const faults = [];
  const root = document.querySelector('dialog[open]') ?? document.body;
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`the page is ${wide} wide`);
  const visible = [...root.querySelectorAll('*')].filter(
    (each) => each.checkVisibility() && !each.closest('pre, noscript'));
  for (const each of visible) {
    const name = each.id || each.className || each.localName;
    const {left, right, width, height} = each.getBoundingClientRect();
    if (each.matches('.drop input, option')) continue;
    if (left < -1 || right > innerWidth + 1) faults.push(`${name} sticks out`);
    if (each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 1 && !each.matches('input'))
      faults.push(`${name} is too narrow`);
    if (each.matches('button, summary, .drop label, .links a, .accounts label, .shapes label,'
        + 'input:not(.accounts input, .shapes input)') && (height < 43.9 || width < 43.9))
      faults.push(`${name} is ${width} x ${height}`);
  }
  return faults;
"""

#: Forty letters in one word, a right-to-left override, and Hebrew.
NAME = "Maximiliane" * 10 + "\u202etxt.exe \u05e9\u05dc\u05d5\u05dd"


class LayoutFlows:
    """The looks of the page."""

    def resize(self, width: int, height: int) -> None:
        """Give the page this size until the end of the test."""
        self.addCleanup(self.engine.resize, self.browser, 1280, 900)
        self.engine.resize(self.browser, width, height)
        self.until(lambda: self.browser.execute_script("return innerWidth") == width)

    def prefer(self, feature: str, value: str) -> None:
        """Set a preference of the user until the end of the test."""
        self.addCleanup(self.engine.prefer, self.browser, feature, "")
        self.engine.prefer(self.browser, feature, value)
        query = f"({feature}: {value})"
        self.until(
            lambda: self.browser.execute_script("return matchMedia(arguments[0]).matches", query)
        )

    def nothing_is_wrong(self) -> None:
        """Check that everything fits, and that every target is large enough."""
        self.assertEqual(self.browser.execute_script(FAULTS), [])

    def named(self) -> None:
        """Give the user a long name with letters that change the direction of the text."""
        body = json.dumps({"displayName": NAME}).encode()
        call_api(self.daemon, "alice", "POST", "/v1/display_name", body)
        self.browser.refresh()
        self.says("email", "@")

    @blocking
    def test_no_barriers(self) -> None:
        """axe finds no barrier in any state of the page, in light, dark and forced colours."""
        self.assertEqual(barriers(self.browser), [])
        self.upload(self.photo(size=(300, 200)))
        self.says("picture-status", READY)
        self.element("history-fold").click()
        self.unfold()
        self.assertEqual(barriers(self.browser), [])
        self.prefer("prefers-color-scheme", "dark")
        self.assertEqual(barriers(self.browser), [])
        self.edit(self.photo(size=(300, 200)))
        self.assertEqual(barriers(self.browser), [])
        self.prefer("prefers-color-scheme", "light")
        self.assertEqual(barriers(self.browser), [])
        self.element("editor-cancel").click()
        self.element("delete").click()
        self.assertEqual(barriers(self.browser), [])
        self.element("question-delete").click()
        self.says("picture-status", "will be deleted")
        self.assertEqual(barriers(self.browser), [])
        self.element("undo").click()
        self.element("camera-open").click()
        self.until(self.element("camera-take").is_enabled)
        self.assertEqual(barriers(self.browser), [])
        self.element("camera-cancel").click()
        self.prefer("forced-colors", "active")
        self.assertEqual(barriers(self.browser), [])
        self.nothing_to_complain_of()

    def check_all_states(self, wide: int, high: int) -> None:
        """Check the layout of the page and its dialogs at one size."""
        self.named()
        self.resize(wide, high)
        self.nothing_is_wrong()
        self.edit(self.photo(size=(600, 400)))
        self.nothing_is_wrong()
        self.element("shape-whole").click()
        self.nothing_is_wrong()
        self.element("editor-save").click()
        self.says("picture-status", READY)
        self.element("history-fold").click()
        self.unfold()
        self.until(lambda: self.sizes()[2][1] == 600)
        self.nothing_is_wrong()
        self.element("delete").click()
        self.nothing_is_wrong()
        self.element("question-keep").click()
        self.element("camera-open").click()
        self.until(self.element("camera-take").is_enabled)
        self.nothing_is_wrong()
        self.element("camera-cancel").click()
        stretched = self.browser.execute_script(
            "return [...document.querySelectorAll('img')].filter((each) => each.naturalWidth"
            " && getComputedStyle(each).objectFit !== 'contain' && each.checkVisibility()"
            " && Math.abs(each.width / each.height - each.naturalWidth / each.naturalHeight) > 0.05"
            ").map((each) => each.outerHTML)"
        )
        self.assertEqual(stretched, [])
        self.nothing_to_complain_of()

    @blocking
    def test_small_screen(self) -> None:
        """At 360 pixels everything fits, and the way to upload comes first."""
        self.check_all_states(360, 640)
        self.browser.refresh()
        self.says("email", "@")
        tops = [self.element(name).rect["y"] for name in ("drop", "name-field", "developer")]
        self.assertEqual(tops, sorted(tops))
        self.assertLess(tops[0], 640 - 44)

    @blocking
    def test_large_screen(self) -> None:
        """At 1600 pixels everything fits."""
        self.check_all_states(1600, 1000)

    @blocking
    def test_page_at_200_percent(self) -> None:
        """A window of 1280 by 900 pixels that is zoomed to 200 % shows everything."""
        self.check_all_states(640, 450)
        self.edit(self.photo(size=(600, 400)))
        script = "return document.getElementById('editor-save').getBoundingClientRect().bottom"
        self.assertLess(self.browser.execute_script(script), 450)
        self.element("editor-cancel").click()

    @blocking
    def test_names_change_nothing_around_them(self) -> None:
        """A name with a right-to-left override is isolated from the text around it."""
        self.named()
        self.assertEqual(self.text("name"), NAME)
        left = self.element("email").rect["x"]
        self.element("file").send_keys(self.file("gpj\u202eexe.txt", b"text" * 100))
        self.says("picture-status", "not a picture")
        script = (
            "return ['#name', '#email', '#uploads bdi'].map((each) =>"
            " getComputedStyle(document.querySelector(each)).unicodeBidi)"
        )
        self.assertEqual(self.browser.execute_script(script), ["isolate"] * 3)
        self.element("name-clear").click()
        self.says("name", "No name yet")
        self.assertEqual(self.element("email").rect["x"], left)

    @blocking
    def test_motion_and_colours_of_the_user(self) -> None:
        """Without motion nothing moves; in the dark and in forced colours, colours follow."""
        moving = (
            "return [...document.querySelectorAll('*')].filter((each) => {"
            " const style = getComputedStyle(each);"
            " return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0"
            "}).length"
        )
        background = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
        self.browser.execute_script(
            "document.getElementById('work').hidden = false;"
            "document.getElementById('progress').removeAttribute('value')"
        )
        self.assertGreater(self.browser.execute_script(moving), 0)
        self.prefer("prefers-reduced-motion", "reduce")
        self.assertEqual(self.browser.execute_script(moving), 0)
        light = self.browser.execute_script(background)
        self.prefer("prefers-color-scheme", "dark")
        self.assertNotEqual(self.browser.execute_script(background), light)
        self.prefer("forced-colors", "active")
        outline = (
            "return getComputedStyle(document.querySelector("
            "'.accounts input:checked + span')).outlineStyle"
        )
        self.assertEqual(self.browser.execute_script(outline), "solid")

"""The name and the picture, with a mouse and with a keyboard."""

from __future__ import annotations

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.case import blocking

#: The status line after a successful upload.
READY = "This is your picture now."

WHOLE = ((100, 75), (200, 150), (600, 450))
SQUARE = ((100, 100), (200, 200), (600, 600))


class ProfileFlows:
    """The page as a user sees it, and what it shows to developers."""

    @blocking
    def test_upload_name_and_delete(self) -> None:
        """
        A user can select an account, upload a picture and see it in three sizes, set a name
        that persists, and delete the picture.
        """
        self.choose("bob@example.com")
        self.assertEqual(self.text("name"), "No name yet")
        self.assertFalse(self.element("delete").is_enabled())
        self.unfold()

        self.upload(self.photo())
        self.says("picture-status", READY)
        self.shows_sizes(*WHOLE)
        self.assertIn("--data-binary @photo.jpg", self.text("curl"))
        self.assertIn("Authorization: Bearer bob", self.text("curl"))
        self.says("outcome", "201 Created")

        self.element("name-field").send_keys("Bob's <b>name</b>")
        self.element("name-save").click()
        self.says("name-status", "Saved.")
        self.says("name", "Bob's <b>name</b>")
        self.assertIn(r"Bob'\''s", self.text("curl"))

        self.browser.refresh()
        self.says("email", "bob@example.com")
        self.says("name", "Bob's <b>name</b>")
        self.assertEqual(self.element("name-field").get_property("value"), "Bob's <b>name</b>")
        self.shows_sizes(*WHOLE)

        self.choose("alice@example.com")
        self.says("name", "No name yet")
        self.choose("bob@example.com")
        self.delete()
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

        self.tab_to("file")
        # The file dialog is the browser's own: this is how a driver answers it.
        self.browser.switch_to.active_element.send_keys(self.photo())
        self.until(lambda: self.focused() == "stage")
        self.press("+", "+", Keys.ARROW_RIGHT)
        self.says("readout", "Crop at", "% across, 50 % down")
        self.tab_to("straighten")
        self.press(Keys.ARROW_RIGHT)
        self.says("readout", "Turned 1°")
        self.tab_to("editor-save")
        self.press(Keys.ENTER)
        self.says("picture-status", READY)
        self.shows_sizes(*SQUARE)

        self.tab_to("delete")
        self.press(Keys.ENTER)
        self.until(lambda: self.focused() == "question-keep")
        self.press(Keys.ESCAPE)
        self.until(lambda: self.focused() == "delete")
        self.press(Keys.ENTER)
        self.tab_to("question-delete")
        self.press(Keys.ENTER)
        self.until(lambda: self.focused() == "undo")
        self.tab_to("delete-now")
        self.press(Keys.ENTER)
        self.says("picture-status", "deleted")
        self.until(lambda: self.focused() == "file")

        self.tab_to("name-field")
        self.press("Bob", Keys.ENTER)
        self.says("name", "Bob")
        self.tab_to("developer-fold")
        self.press(Keys.ENTER)
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
        self.unfold()
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
        self.delete()
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
    def test_dropped_and_pasted_files_open_the_editor(self) -> None:
        """A file that is dropped anywhere on the page, or pasted, opens the editor."""
        self.photo("dropped.png", (60, 40))
        data = list((self.directory / "dropped.png").read_bytes())
        prepare = (
            "const transfer = new DataTransfer();"
            "transfer.items.add(new File([new Uint8Array(arguments[0])], 'dropped.png',"
            " {type: 'image/png'}));"
        )
        taken = self.browser.execute_script(
            f"{prepare}"
            "const event = (kind) => new DragEvent(kind,"
            " {dataTransfer: transfer, bubbles: true, cancelable: true});"
            "document.body.dispatchEvent(event('dragenter'));"
            "const taken = !document.body.dispatchEvent(event('dragover'));"
            "document.body.dispatchEvent(event('drop'));"
            "return taken",
            data,
        )
        self.assertTrue(taken)
        self.until(self.element("editor").is_displayed)
        self.element("shape-whole").click()
        self.element("editor-save").click()
        self.says("picture-status", READY)
        self.shows_sizes((60, 40), (60, 40), (60, 40))

        taken = self.browser.execute_script(
            f"{prepare}"
            # Firefox lets only its user put files into a clipboard event.
            "const paste = new Event('paste', {bubbles: true, cancelable: true});"
            "paste.clipboardData = transfer;"
            "return !document.getElementById('name-field').dispatchEvent(paste)",
            data,
        )
        self.assertTrue(taken)
        self.until(self.element("editor").is_displayed)
        ActionChains(self.browser).send_keys(Keys.ESCAPE).perform()
        self.says("picture-status", "Nothing was changed.")
        self.shows_sizes((60, 40), (60, 40), (60, 40))
        self.nothing_to_complain_of()

    @blocking
    def test_policy_is_enforced(self) -> None:
        """The page cannot load foreign resources or run inline scripts and styles."""
        refused = self.refused_by_policy(
            "add('img', {src: 'http://127.0.0.1:9/elsewhere.png'});"
            "add('script', {textContent: 'window.ran = true'});"
            "add('p', {innerHTML: '<b style=\"color: red\">red</b>'});"
            "fetch('http://127.0.0.1:9/').catch(() => null);",
            4,
        )
        self.assertEqual(refused, ["connect-src", "img-src", "script-src-elem", "style-src-attr"])
        self.assertIsNone(self.browser.execute_script("return window.ran"))
        self.assertGreaterEqual(len(self.engine.complaints(self.browser)), 4)

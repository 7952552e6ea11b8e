"""The editor: what it shows is what is saved."""

from __future__ import annotations

from importlib.util import find_spec

from PIL import Image, ImageDraw
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from tests.browser.case import blocking
from tests.browser.flows.profile import READY, SQUARE

RED, BLUE = (255, 0, 0), (0, 0, 255)


class EditorFlows:
    """The dialog between the choice of a picture and its upload."""

    def halves(self, name: str = "halves.jpg", size: tuple[int, int] = (1000, 500)) -> str:
        """Return the path of a picture that is red on the left and blue on the right."""
        picture = Image.new("RGB", size, RED)
        picture.paste(BLUE, (size[0] // 2, 0, *size))
        picture.save(self.directory / name, quality=95)
        return str(self.directory / name)

    def save(self) -> None:
        """Save, and wait until the picture is there."""
        before = self.sizes()[2][0]
        self.element("editor-save").click()
        self.says("picture-status", READY)
        self.until(lambda: self.sizes()[2][0] != before and self.sizes()[2][1])

    def watch(self) -> None:
        """Have the page remember what it uploads."""
        self.browser.execute_script(
            "const send = XMLHttpRequest.prototype.send;"
            "XMLHttpRequest.prototype.send = function (body) {"
            " window.sent = body; return send.call(this, body); };"
        )

    def sent(self) -> dict[str, object]:
        """Return the type, the bytes and the sides of the last upload."""
        return self.run_script(
            "const {width, height} = await createImageBitmap(window.sent);"
            "return {type: window.sent.type, bytes: window.sent.size, width, height};"
        )

    def looks(self, *colours: tuple[int, int, int]) -> None:
        """Check the colours of the avatar in its four quarters, from the upper left."""
        avatar = self.avatar()
        width, height = avatar.size
        for (x, y), colour in zip(((1, 1), (3, 1), (1, 3), (3, 3)), colours, strict=True):
            found = avatar.getpixel((x * width // 4, y * height // 4))
            near = all(abs(one - other) < 40 for one, other in zip(found, colour, strict=True))
            self.assertTrue(near, (x, y, found, colour))

    def previews_show(self, colour: tuple[int, int, int]) -> None:
        """Wait until the middle of the left half of each preview has this colour."""
        script = (
            "const pixel = document.createElement('canvas');"
            "const context = pixel.getContext('2d', {willReadFrequently: true});"
            "return ['stage', 'preview-round', 'preview-square'].map((id) => {"
            " const canvas = document.getElementById(id);"
            " context.drawImage(canvas, -canvas.width / 4, -canvas.height / 2);"
            " return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); })"
        )

        def shown() -> bool:
            found = self.browser.execute_script(script)
            return all(abs(a - b) < 40 for each in found for a, b in zip(each, colour, strict=True))

        self.until(shown)

    @blocking
    def test_mouse_moves_the_crop(self) -> None:
        """Dragging the picture moves the crop, up to the edge of the picture."""
        self.edit(self.halves())
        self.previews_show(RED)
        stage = self.element("stage")
        across = stage.size["width"]
        drag = ActionChains(self.browser, duration=50)
        drag.click_and_hold(stage).move_by_offset(-across // 3, 20).move_by_offset(-across // 3, 0)
        drag.release().perform()
        self.says("readout", "Zoom 100 %. Crop at 100 % across, 50 % down")
        self.previews_show(BLUE)
        self.save()
        self.looks(BLUE, BLUE, BLUE, BLUE)
        self.shows_sizes((100, 100), (200, 200), (500, 500))
        self.nothing_to_complain_of()

    @blocking
    def test_wheel_and_pinch_zoom(self) -> None:
        """The wheel zooms at the pointer; two fingers zoom between them, and move."""
        self.edit(self.halves())
        stage = self.element("stage")
        across = stage.size["width"]
        origin = ScrollOrigin.from_element(stage, across // 4, 0)
        ActionChains(self.browser).scroll_from_origin(origin, 0, -1000).perform()
        self.until(lambda: int(self.element("zoom").get_property("value")) > 300)
        self.assertRegex(self.text("readout"), r"Zoom \d+ %")
        self.previews_show(BLUE)
        self.element("start-again").click()
        self.previews_show(RED)

        fingers = [PointerInput(POINTER_TOUCH, name) for name in ("first", "second")]
        for finger, side in zip(fingers, (-1, 1), strict=True):
            steps = ((20, 0), (across // 6, 0), (across // 3, 0))
            for index, (distance, down) in enumerate(steps):
                finger.create_pointer_move(50, side * distance, down, origin=stage)
                if index == 0:
                    finger.create_pointer_down(button=0)
            finger.create_pointer_up(0)
        builder = ActionBuilder(self.browser)
        builder.devices[:] = fingers
        builder.perform()
        self.until(lambda: int(self.element("zoom").get_property("value")) > 500)
        self.says("readout", "Crop at 50 % across")
        self.save()
        self.looks(RED, BLUE, RED, BLUE)
        self.nothing_to_complain_of()

    @blocking
    def test_keys_and_buttons_turn_move_and_zoom(self) -> None:
        """Keys and buttons do what a mouse does, in steps, and each value is announced."""
        self.edit(self.halves())
        self.assertEqual(self.focused(), "stage")
        self.assertEqual(self.element("readout").get_attribute("aria-live"), "polite")
        self.press("+")
        self.says("readout", "Zoom 110 %")
        self.assertEqual(self.element("zoom").get_attribute("aria-valuetext"), "110 %")
        self.press("-", "-")
        self.says("readout", "Zoom 100 %")
        self.press(Keys.ARROW_LEFT)
        self.says("readout", "Crop at 55 % across, 50 % down")
        self.press("0", "r")
        self.says("readout", "Turned 90°")
        self.element("turn-right").click()
        self.says("readout", "Turned 180°")
        for name, words in (
            ("move-left", "Crop at 45 % across"),
            ("zoom-in", "Zoom 110 %"),
            ("move-down", "down"),
            ("tilt-left", "Turned 179°"),
            ("tilt-right", "Turned 180°"),
            ("start-again", "As at the start"),
            ("turn-left", "Turned -90°"),
        ):
            self.element(name).click()
            self.says("readout", words)
        self.save()
        self.looks(BLUE, BLUE, RED, RED)
        self.nothing_to_complain_of()

    @blocking
    def test_large_photo_is_reduced_in_the_browser(self) -> None:
        """A photo over the size limit becomes a JPEG of 1200 pixels, upright, and sharp."""
        self.watch()
        path = self.directory / "phone.jpg"
        photo = Image.effect_noise((3600, 2700), 60).convert("RGB")
        draw = ImageDraw.Draw(photo)
        draw.rectangle((0, 0, 1800, 2700), fill=RED)
        exif = Image.Exif()
        exif[0x0112] = 6  # The camera was held upright: it turns the picture clockwise.
        photo.save(path, quality=100, exif=exif)
        with path.open("ab") as file:
            file.truncate(12_000_000)
        self.edit(str(path))
        self.save()
        sent = self.sent()
        self.assertEqual((sent["type"], sent["width"], sent["height"]), ("image/jpeg", 1200, 1200))
        self.assertLess(sent["bytes"], 1_200_000)
        self.shows_sizes(*SQUARE)
        # The noise is grey, and averages to its middle when it is reduced evenly.
        avatar = self.avatar().crop((50, 350, 550, 550))
        self.assertLess(max(avatar.convert("L").getextrema()) - 128, 90)
        self.assertEqual(self.avatar().getpixel((300, 100))[1:], (0, 0))
        self.nothing_to_complain_of()

    @blocking
    def test_transparency_is_kept(self) -> None:
        """A transparent picture is sent as PNG, and a small one that is not cropped as it is."""
        self.watch()
        picture = Image.new("RGBA", (1500, 1000), (0, 0, 255, 128))
        picture.save(self.directory / "glass.png")
        self.upload(str(self.directory / "glass.png"))
        self.says("picture-status", READY)
        sent = self.sent()
        self.assertEqual((sent["type"], sent["width"], sent["height"]), ("image/png", 1200, 800))
        self.shows_sizes((100, 67), (200, 133), (600, 400))

        Image.new("RGB", (300, 200), "red").save(self.directory / "small.png")
        size = (self.directory / "small.png").stat().st_size
        self.upload(str(self.directory / "small.png"))
        self.shows_sizes((100, 67), (200, 133), (300, 200))
        self.assertEqual(self.sent()["bytes"], size)
        self.nothing_to_complain_of()

    @blocking
    def test_round_portrait_cuts_nothing_else_off(self) -> None:
        """The portrait is round only if the picture is square; another is shown whole."""
        script = (
            "const portrait = document.getElementById('portrait');"
            "const style = getComputedStyle(portrait);"
            "return [style.borderRadius, style.objectFit, portrait.srcset.split(',').length]"
        )
        self.upload(self.halves())
        self.says("picture-status", READY)
        self.until(lambda: "_large" in self.element("portrait").get_attribute("srcset"))
        self.until(lambda: "round" not in self.element("portrait").get_attribute("class"))
        self.assertEqual(self.browser.execute_script(script), ["18px", "contain", 3])
        self.upload(self.halves(), whole=False)
        self.until(lambda: "round" in self.element("portrait").get_attribute("class"))
        self.says("picture-status", READY)
        self.until(lambda: "_large" in self.element("portrait").get_attribute("srcset"))
        self.assertEqual(self.browser.execute_script(script), ["50%", "contain", 3])
        self.nothing_to_complain_of()

    @blocking
    def test_cancelled_picture_leaves_nothing(self) -> None:
        """A picture that is cancelled in the editor leaves no preview, and is not uploaded."""
        self.until(lambda: self.element("portrait").get_attribute("src"))
        before = self.element("portrait").get_attribute("src")
        self.edit(self.halves())
        self.element("editor-cancel").click()
        self.says("picture-status", "Nothing was changed.")
        self.assertEqual(self.element("portrait").get_attribute("src"), before)
        self.assertFalse(self.element("history").is_displayed())
        self.unfold()
        self.assertIn("/v1/profile", self.text("curl"))
        self.nothing_to_complain_of()

    @blocking
    def test_photo_of_the_camera(self) -> None:
        """A photo of the camera is cropped and saved; without a camera a sentence says so."""
        self.element("camera-open").click()
        self.until(self.element("camera-take").is_enabled)
        self.element("camera-take").click()
        self.until(self.element("editor").is_displayed)
        self.save()
        self.assertFalse(self.element("camera").is_displayed())
        self.assertEqual(self.sizes()[0][1:], (100, 100))

        self.browser.execute_script(
            "navigator.mediaDevices.getUserMedia ="
            " () => Promise.reject(new DOMException('', 'NotAllowedError'))"
        )
        self.element("camera-open").click()
        self.says("camera-status", "The camera is blocked.", "or choose a file")
        self.assertFalse(self.element("camera-take").is_enabled())
        self.press(Keys.ESCAPE)
        self.until(lambda: not self.element("camera").is_displayed())
        self.nothing_to_complain_of()

    @blocking
    def test_undecodable_picture_is_sent_whole(self) -> None:
        """A HEIC photo that the browser cannot show is sent whole, and a sentence says so."""
        if not find_spec("pillow_heif"):
            return
        from pillow_heif import from_pillow

        self.halves("photo.png")
        from_pillow(Image.open(self.directory / "photo.png")).save(self.directory / "photo.heic")
        self.element("file").send_keys(str(self.directory / "photo.heic"))
        self.says("picture-status", READY, "cannot show HEIC files, so the whole picture was sent")
        self.shows_sizes((100, 50), (200, 100), (600, 300))
        self.looks(RED, BLUE, RED, BLUE)
        self.nothing_to_complain_of()

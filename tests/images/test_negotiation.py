"""Content negotiation: the format in which a client gets a picture."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.images.negotiation import preferred_formats
from fxprofile.images.resource import ABSENT_SECONDS, MAX_ABSENT, ImagesResource
from fxprofile.model.keys import DEFAULT_AVATAR_ID, public_key
from tests.images.listener import AVATAR, Listener
from tests.serving.wire import Answer
from tests.support.fakes.bucket import MemoryBucket

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
FIREFOX_92 = "image/webp,*/*"
SAFARI_13 = "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"


class ChoiceTests(SynchronousTestCase):
    """The meaning of an Accept header."""

    def best(self, accept: str, *formats: str) -> list[str]:
        return list(preferred_formats(accept, ("png", *formats)))

    def test_browser_gets_smallest_named_format(self) -> None:
        """A browser gets the smallest format that it names, and PNG if it names none."""
        self.assertEqual(self.best(CHROME, "webp", "avif"), ["avif", "webp", "png"])
        self.assertEqual(self.best(CHROME, "webp"), ["webp", "png"])
        self.assertEqual(self.best(FIREFOX_92, "webp", "avif"), ["webp", "png"])
        self.assertEqual(self.best(SAFARI_13, "webp", "avif"), ["png"])

    def test_wildcards_mean_png(self) -> None:
        """A header that names no other format means PNG, wildcards included."""
        for accept in ("", "*/*", "image/*", "text/html", "image/webpx", "video/webp"):
            self.assertEqual(self.best(accept, "webp", "avif"), ["png"])

    def test_quality_values_decide(self) -> None:
        """Formats are ordered by the client's quality values; a value of 0 excludes a format."""
        self.assertEqual(
            self.best("image/avif;q=0.5, IMAGE/WEBP", "webp", "avif"), ["webp", "avif", "png"]
        )
        self.assertEqual(self.best("image/webp;q=0, image/png", "webp"), ["png"])
        self.assertEqual(self.best("image/webp;q=0.4, image/png;q=0.9", "webp"), ["png"])

    def test_png_only(self) -> None:
        """If no other format is enabled, the choice is always PNG."""
        self.assertEqual(self.best(CHROME), ["png"])

    @given(st.text() | st.text(alphabet="image/webpavf*;q=0.,1 "))
    def test_png_is_always_last(self, accept: str) -> None:
        """For any header, PNG is the last choice and no format comes twice."""
        best = self.best(accept, "webp", "avif")
        self.assertEqual(best[-1], "png")
        self.assertEqual(len(set(best)), len(best))


class NegotiationTests(SynchronousTestCase):
    """Responses of the listener if pictures exist in several formats."""

    def setUp(self) -> None:
        self.bucket = MemoryBucket()
        for form in ("png", "webp"):
            self.bucket.objects[public_key(AVATAR, "default", form)] = form.encode()
        self.listener = Listener(self.bucket, formats=("png", "webp"))

    def ask(self, path: str = f"/a/{AVATAR}", method: str = "GET", **headers: str) -> Answer:
        answer = self.listener.ask(path, method, **headers)
        self.assertEqual(answer.header("Vary"), "Accept")
        return answer

    def test_one_url_serves_each_format(self) -> None:
        """One URL serves each client its format, with an ETag of its own."""
        webp, png = self.ask(Accept=CHROME), self.ask(Accept=SAFARI_13)
        self.assertEqual((webp.header("Content-Type"), webp.body), ("image/webp", b"webp"))
        self.assertEqual((png.header("Content-Type"), png.body), ("image/png", b"png"))
        self.assertNotEqual(webp.header("ETag"), png.header("ETag"))
        self.assertEqual(webp.header("X-Content-Type-Options"), "nosniff")

    def test_long_accept_header_means_png(self) -> None:
        """An Accept header that is too long to be parsed gets PNG."""
        accept = "image/webp" + ", image/webp" * 100
        answer = self.listener.ask(f"/a/{AVATAR}", Accept=accept)
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "image/png"))

    def test_head_matches_get(self) -> None:
        """HEAD returns the headers that GET would return."""
        self.assertEqual(
            self.ask(method="HEAD", Accept=CHROME).header("Content-Type"), "image/webp"
        )

    def test_etag_belongs_to_one_format(self) -> None:
        """An ETag matches only in the format that it came with."""
        tag = self.ask(Accept=CHROME).header("ETag") or ""
        self.assertEqual(self.ask(Accept=CHROME, If_None_Match=tag).status, 304)
        self.assertEqual(self.ask(Accept=SAFARI_13, If_None_Match=tag).status, 200)

    def test_missing_format_falls_back_to_png(self) -> None:
        """An avatar without a format is served as PNG, and the absence is cached."""
        del self.bucket.objects[public_key(AVATAR, "default", "webp")]
        for _ in range(3):
            answer = self.ask(Accept=CHROME)
            self.assertEqual((answer.header("Content-Type"), answer.body), ("image/png", b"png"))
        asked = [keys for _, keys in self.bucket.calls]
        self.assertEqual(asked.count((f"a/{AVATAR}.webp",)), 1)
        self.bucket.objects[public_key(AVATAR, "default", "webp")] = b"webp"
        self.listener.clock.advance(ABSENT_SECONDS)
        self.assertEqual(self.ask(Accept=CHROME).body, b"webp")

    def test_cache_of_absences_is_bounded(self) -> None:
        """The cache of absent objects forgets the oldest ones when it is full."""
        resource = self.listener.site.resource
        assert isinstance(resource, ImagesResource)
        resource._absent.update((str(number), True) for number in range(MAX_ABSENT + 1))
        self.assertEqual([key in resource._absent for key in ("0", "1")], [False, True])

    def test_missing_picture_is_not_cached(self) -> None:
        """A picture that exists in no format is 404, and is served as soon as it exists."""
        unknown = "f" * 32
        self.assertEqual(self.ask(f"/a/{unknown}", Accept=CHROME).status, 404)
        self.bucket.objects[public_key(unknown, "default", "webp")] = b"webp"
        self.assertEqual(self.ask(f"/a/{unknown}", Accept=CHROME).body, b"webp")

    def test_default_avatar_is_png(self) -> None:
        """The default avatar is always a PNG, served without the bucket."""
        answer = self.ask(f"/a/{DEFAULT_AVATAR_ID}", Accept=CHROME)
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "image/png"))
        self.assertEqual(self.bucket.calls, [])

    def test_formats_have_no_urls(self) -> None:
        """A format has no URL of its own."""
        self.assertEqual(self.listener.ask(f"/a/{AVATAR}.webp").status, 404)

    def test_no_vary_with_png_only(self) -> None:
        """If no other format is enabled, responses have no Vary header."""
        answer = Listener(self.bucket).ask(f"/a/{AVATAR}", Accept=CHROME)
        self.assertIsNone(answer.header("Vary"))
        self.assertEqual(answer.body, b"png")

"""Tests of :mod:`fxprofile.images.resource`: requests and responses."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.images.resource import parse_path
from fxprofile.model.errors import StorageError
from fxprofile.model.keys import DEFAULT_AVATAR_ID, public_key
from tests.images.listener import AVATAR, KEY, Listener
from tests.serving.wire import Answer
from tests.support.fakes.bucket import MemoryBucket

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


class ResourceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.bucket = MemoryBucket()
        self.bucket.objects[KEY] = PNG
        self.listener = Listener(self.bucket)

    def ask(self, path: str = f"/a/{AVATAR}", method: str = "GET", **headers: str) -> Answer:
        return self.listener.ask(path, method, **headers)

    def assert_guarded(self, answer: Answer) -> None:
        """Assert the headers that every response has."""
        for name, value in {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Access-Control-Allow-Origin": "*",
            "Server": "fxprofile",
        }.items():
            self.assertEqual(answer.header(name), value)

    def assert_refused(self, answer: Answer, status: int, errno: int) -> None:
        self.assert_guarded(answer)
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.header("Cache-Control"), "no-store")
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertIsNone(answer.header("ETag"))
        self.assertEqual(set(answer.json), {"code", "errno", "error", "message"})
        self.assertEqual((answer.json["code"], answer.json["errno"]), (status, errno))

    def calls(self) -> list[str]:
        calls = [operation for operation, _ in self.bucket.calls]
        self.bucket.calls.clear()
        return calls


class PictureTests(ResourceTestCase):
    def test_get_has_caching_and_security_headers(self) -> None:
        """A picture comes with its caching and security headers."""
        answer = self.ask()
        self.assertEqual((answer.status, answer.body), (200, PNG))
        self.assert_guarded(answer)
        for name, value in {
            "Content-Type": "image/png",
            "Content-Disposition": "inline",
            "Content-Length": str(len(PNG)),
            "Cache-Control": "public, max-age=3600",
            "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT",
        }.items():
            self.assertEqual(answer.header(name), value)
        self.assertRegex(answer.header("ETag") or "", r'\A"[^"]+"\Z')
        self.assertIsNotNone(answer.header("Date"))

    def test_variants_are_separate_objects(self) -> None:
        """Each size is an object of its own."""
        for suffix in ("_small", "_large"):
            self.bucket.objects[KEY + suffix] = PNG + suffix.encode()
            answer = self.ask(f"/a/{AVATAR}{suffix}")
            self.assertEqual(answer.body, PNG + suffix.encode())

    def test_query_is_ignored(self) -> None:
        """A query string is ignored, and does not bypass the cache."""
        self.assertEqual(self.ask(f"/a/{AVATAR}?1").body, PNG)
        self.assertEqual(self.ask(f"/a/{AVATAR}?2").body, PNG)
        self.assertEqual(self.calls(), ["get"])

    def test_head_fetches_no_bytes(self) -> None:
        """HEAD returns the headers of GET without fetching the bytes."""
        answer = self.ask(method="HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(self.calls(), ["head"])
        got = self.ask()
        self.calls()
        for name in ("Content-Type", "Content-Length", "ETag", "Last-Modified", "Cache-Control"):
            self.assertEqual(answer.header(name), got.header(name))
        self.assertEqual(self.ask(method="HEAD").header("ETag"), got.header("ETag"))
        self.assertEqual(self.calls(), [])

    def test_matching_etag_gives_304(self) -> None:
        """A request with the current ETag gets 304, and no bytes are fetched."""
        tag = self.ask(method="HEAD").header("ETag") or ""
        self.calls()
        for method in ("GET", "HEAD"):
            for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                answer = self.ask(method=method, If_None_Match=header)
                self.assertEqual((answer.status, answer.body), (304, b""))
                self.assert_guarded(answer)
                self.assertEqual(answer.header("ETag"), tag)
                self.assertEqual(answer.header("Cache-Control"), "public, max-age=3600")
                self.assertEqual(answer.header("Content-Length"), str(len(PNG)))
                self.assertIsNone(answer.header("Transfer-Encoding"))
        self.assertEqual(set(self.calls()), {"head"})

    def test_304_from_memory(self) -> None:
        """A conditional request for a cached picture does not reach the bucket."""
        tag = self.ask().header("ETag") or ""
        self.calls()
        self.assertEqual(self.ask(If_None_Match=tag).status, 304)
        self.assertEqual(self.calls(), [])

    def test_other_etag_gives_200(self) -> None:
        """A request with another ETag gets the picture."""
        answer = self.ask(If_None_Match='"other"')
        self.assertEqual((answer.status, answer.body), (200, PNG))
        date = "Thu, 01 Jan 2037 00:00:00 GMT"
        answer = self.ask(If_None_Match='"other"', If_Modified_Since=date)
        self.assertEqual(answer.status, 200)

    def test_if_modified_since_gives_304(self) -> None:
        """A request with If-Modified-Since gets 304 if the picture is not newer."""
        date = self.ask().header("Last-Modified") or ""
        self.assertEqual(self.ask(If_Modified_Since=date).status, 304)
        self.assertEqual(self.ask(If_Modified_Since="yesterday").status, 200)

    def test_range_is_ignored(self) -> None:
        """A range request gets the whole picture."""
        answer = self.ask(Range="bytes=0-1")
        self.assertEqual((answer.status, answer.body), (200, PNG))

    def test_requests_share_a_connection(self) -> None:
        """Requests on one connection are answered one after the other."""
        connection = self.listener.connect()
        for status, path in ((200, f"/a/{AVATAR}"), (404, "/"), (200, f"/a/{AVATAR}")):
            connection.request(path)
            self.assertEqual(connection.answer().status, status)
        self.assertFalse(connection.wire.disconnecting)

    def test_deleted_picture_expires(self) -> None:
        """A deleted picture is not served after two seconds."""
        self.assertEqual(self.ask().status, 200)
        del self.bucket.objects[KEY]
        self.listener.clock.advance(2)
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask(method=method).status, 404)

    def test_new_picture_is_served_at_once(self) -> None:
        """A picture that was missing is served as soon as it exists."""
        del self.bucket.objects[KEY]
        self.assert_refused(self.ask(), 404, 101)
        self.bucket.objects[KEY] = PNG
        self.assertEqual(self.ask().body, PNG)

    def test_responses_are_counted(self) -> None:
        """Responses are counted by status and by source."""
        self.ask()
        self.ask()
        self.ask(method="HEAD")
        self.ask("/a/%41")
        self.ask(method="BREW")
        labels = {"listener": "images", "route": "/a/{id}"}
        count = self.listener.counted
        self.assertEqual(count("http_requests_total", **labels, method="GET", status="200"), 2)
        self.assertEqual(count("http_requests_total", **labels, method="HEAD", status="200"), 1)
        self.assertEqual(count("http_requests_total", **labels, method="other", status="405"), 1)
        self.assertEqual(count("http_request_seconds_count", **labels), 4)
        self.assertEqual(count("http_request_seconds_count", listener="images", route="-"), 1)
        self.assertEqual(count("image_cache_total", outcome="bucket"), 1)
        self.assertEqual(count("image_cache_total", outcome="memory"), 2)


class RefusalTests(ResourceTestCase):
    def test_other_paths_are_404(self) -> None:
        """Any other path is 404 and does not reach the bucket."""
        for path in (
            "/",
            "/a",
            "/a/",
            "/favicon.ico",
            "/robots.txt",
            f"/{AVATAR}",
            f"/b/{AVATAR}",
            f"/a/{AVATAR}/",
            f"//a/{AVATAR}",
            f"/a//{AVATAR}",
            f"/a/{AVATAR}_default",
            f"/a/{AVATAR}_smal",
            f"/a/{AVATAR}_small_small",
            f"/a/{AVATAR}.png",
            f"/a/{AVATAR.upper()}",
            f"/a/{AVATAR[:-1]}",
            f"/a/{AVATAR}0",
            f"/a/{AVATAR}%00",
            f"/a/{AVATAR}%0a",
            f"/a/%30{AVATAR[1:]}",
            "/a/../a/" + AVATAR,
            "/a/..%2f..%2fetc%2fpasswd",
            "*",
            f"http://images.test/b/{AVATAR}",
        ):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                answer = self.ask(path, method)
                self.assertEqual(answer.status, 404, path)
                if method != "HEAD":
                    self.assert_refused(answer, 404, 101)
        self.assertEqual(self.calls(), [])

    def test_the_path_of_images_url_is_served(self) -> None:
        """Images are served at the path that images.url has, and nowhere else."""
        for template in ("/pics/{id}", "/{id}", "/a/b/x-{id}.png"):
            listener = Listener(self.bucket, path=template)
            for suffix in ("", "_small", "_large"):
                answer = listener.ask(template.replace("{id}", DEFAULT_AVATAR_ID + suffix))
                self.assertEqual(answer.status, 200, template)
            for path in (f"/a/{DEFAULT_AVATAR_ID}", template, template.replace("{id}", "")):
                self.assertEqual(listener.ask(path).status, 404, path)

    @given(st.binary())
    def test_path_is_a_picture_or_nothing(self, name: bytes) -> None:
        """A path either names a picture exactly or is rejected."""
        named = parse_path(b"/a/" + name)
        if named is not None:
            self.assertRegex(public_key(*named), r"\Aa/[0-9a-f]{32}(_small|_large)?\Z")
            self.assertEqual(public_key(*named).encode(), b"a/" + name)

    def test_other_methods_are_405(self) -> None:
        """Methods other than GET and HEAD are 405."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"):
            answer = self.ask(method=method)
            self.assert_refused(answer, 405, 101)
            self.assertEqual(answer.header("Allow"), "GET, HEAD")
        self.assertEqual(self.calls(), [])

    def test_invalid_http_is_400(self) -> None:
        """Invalid HTTP gets a 400 with the same security headers, and may not be cached."""
        for data in (b"\x16\x03\x01\x00\xa5\r\n", f"GET /a/{'٠' * 16} HTTP/1.1\r\n".encode()):
            connection = self.listener.connect()
            connection.send(data + b"\r\n")
            answer = connection.answer()
            self.assertEqual((answer.status, answer.body), (400, b""))
            self.assert_guarded(answer)
            self.assertEqual(answer.header("Cache-Control"), "no-store")
            connection.lose()

    def test_missing_picture_is_404(self) -> None:
        """An unknown picture is 404 and may not be cached."""
        for path in (f"/a/{'f' * 32}", f"/a/{AVATAR}_small"):
            self.assert_refused(self.ask(path), 404, 101)
            answer = self.ask(path, "HEAD")
            self.assertEqual((answer.status, answer.body), (404, b""))
            self.assertEqual(answer.header("Cache-Control"), "no-store")
            self.assertEqual(self.ask(path, If_None_Match="*").status, 404)

    def test_bucket_failure_is_503(self) -> None:
        """A failure of the bucket is 503, and its text does not reach the client."""
        for operation, arguments in (
            ("get", {}),
            ("head", {"If_None_Match": '"x"'}),
            ("head", {"method": "HEAD"}),
        ):
            self.bucket.fail_next(operation, StorageError("no route to secret-host:9000"))
            # Whatever is in memory is asked about.
            self.listener.clock.advance(2)
            answer = self.ask(**arguments)
            self.assertEqual(answer.status, 503)
            self.assertGreater(int(answer.header("Retry-After") or 0), 0)
            self.assertEqual(answer.header("Cache-Control"), "no-store")
            if "method" not in arguments:
                self.assert_refused(answer, 503, 106)
            self.assertNotIn("secret-host", repr(answer))
            self.assertEqual(self.ask(**arguments).status, 200)

    def test_bug_is_500(self) -> None:
        """A bug is 500 without details, and is logged."""
        self.bucket.fail_next("get", ZeroDivisionError("secret"))
        answer = self.ask()
        self.assert_refused(answer, 500, 999)
        self.assertNotIn("secret", repr(answer))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failure_reaches_every_waiter(self) -> None:
        """A failure answers every client that waits for the same picture."""
        held: Deferred[None] = Deferred()
        self.bucket.interrupt = lambda called, moment, keys: held if moment == "before" else None
        connections = [self.listener.connect() for _ in range(5)]
        for connection in connections:
            connection.request(f"/a/{AVATAR}")
        held.errback(StorageError("down"))
        self.assertEqual([c.answer().status for c in connections], [503] * 5)
        self.assertEqual(self.calls(), ["get"])


class DefaultAvatarTests(ResourceTestCase):
    def test_default_avatar_sizes(self) -> None:
        """The default avatar is a PNG of exactly 200, 100 and 600 pixels."""
        for suffix, side in (("", 200), ("_small", 100), ("_large", 600)):
            answer = self.ask(f"/a/{DEFAULT_AVATAR_ID}{suffix}")
            self.assertEqual(answer.status, 200)
            self.assert_guarded(answer)
            self.assertEqual(answer.header("Content-Type"), "image/png")
            self.assertEqual(answer.body[:8], b"\x89PNG\r\n\x1a\n")
            self.assertEqual(struct.unpack(">II", answer.body[16:24]), (side, side))

    def test_default_avatar_needs_no_bucket(self) -> None:
        """The default avatar never reaches the bucket."""
        self.bucket.objects[f"a/{DEFAULT_AVATAR_ID}"] = b"not this"
        for _ in range(3):
            self.assertNotEqual(self.ask(f"/a/{DEFAULT_AVATAR_ID}").body, b"not this")
            self.assertEqual(self.ask(f"/a/{DEFAULT_AVATAR_ID}_small", "HEAD").body, b"")
            self.listener.clock.advance(60)
        self.assertEqual(self.calls(), [])
        self.assertEqual(self.listener.counted("image_cache_total", outcome="default"), 6)

    def test_default_avatar_has_etags(self) -> None:
        """The default avatar has an ETag for each size, and supports 304."""
        tags = set()
        for suffix in ("", "_small", "_large"):
            path = f"/a/{DEFAULT_AVATAR_ID}{suffix}"
            tag = self.ask(path).header("ETag") or ""
            self.assertEqual(self.ask(path, If_None_Match=tag).status, 304)
            tags.add(tag)
        self.assertEqual(len(tags), 3)


class ImportTests(SynchronousTestCase):
    def test_imports_are_few(self) -> None:
        """The images listener imports neither Pillow nor a database, queue or identity driver."""
        program = "import sys, fxprofile.images.resource; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        self.assertIn("fxprofile.images.memory_cache", loaded)
        for name in ("PIL", "klein", "sqlalchemy", "botocore", "fxprofile.drivers.sql"):
            self.assertNotIn(name, loaded)

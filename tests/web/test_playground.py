"""The playground page: what is served, to which clients, and when it is absent."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.drivers.dev.identity import DevIdentity
from fxprofile.serving.health import Health
from fxprofile.settings.model import (
    CrunchSettings,
    ImagesSettings,
    Settings,
    UploadsSettings,
    WebSettings,
)
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.api import Api
from fxprofile.web.dockerflow import Dockerflow
from fxprofile.web.page import Playground, content_security_policy, prefers_html, read_files
from tests.serving.wire import Answer, Connection
from tests.support.daemon import Daemon

#: What Firefox and Chromium send for a page.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class PageCase(SynchronousTestCase):
    """An API that has a playground."""

    def setUp(self) -> None:
        settings = Settings(
            web=WebSettings(public_url="https://API.example/"),
            images=ImagesSettings(url="https://images.example/a/{id}"),
            uploads=UploadsSettings(max_bytes=ByteSize(1234)),
            crunch=CrunchSettings(fit="cover", heic=True),
        )
        accounts = settings.identity.dev.accounts
        playground = Playground(settings=settings, files=read_files())
        clock = Clock()
        api = Api(identity=DevIdentity(accounts), metrics=Metrics(), clock=clock)
        dockerflow = Dockerflow(health=Health(clock), playground=playground)
        api.add(playground)
        api.add(dockerflow)
        self.site = api.site()

    def ask(self, path: str, host: str | None = "127.0.0.1:1111", **headers: str) -> Answer:
        """Send one request on a connection of its own."""
        lines = [f"GET {path} HTTP/1.1"]
        if host is not None:
            lines.append(f"Host: {host}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection = Connection(self.site)
        connection.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = connection.answer()
        connection.lose()
        return answer


class PageTests(PageCase):
    """The page and its files."""

    def test_programs_get_the_version(self) -> None:
        """A client that prefers JSON gets the version at /, as Dockerflow requires."""
        for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            answer = self.ask("/", **accept)
            self.assertEqual(answer.status, 200)
            self.assertEqual(set(answer.json), {"source", "version", "commit", "build"})
            self.assertEqual(answer.header("Vary"), "Accept")

    def test_browsers_get_the_page(self) -> None:
        """A browser gets the page at /, with Vary: Accept."""
        answer = self.ask("/", Accept=BROWSER)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.header("Content-Type"), "text/html; charset=utf-8")
        self.assertEqual(answer.body, read_files()["index.html"])
        self.assertEqual(answer.header("Vary"), "Accept")
        self.assertIn("no-store", answer.header("Cache-Control") or "")

    def test_policy_allows_api_and_images(self) -> None:
        """The page may load its own files, the API and the images, and nothing else."""
        policy = self.ask("/", Accept=BROWSER).header("Content-Security-Policy") or ""
        self.assertEqual(
            dict(directive.split(" ", 1) for directive in policy.split("; ")),
            {
                "default-src": "'none'",
                "script-src": "'self'",
                "style-src": "'self'",
                "img-src": "'self' https://images.example https://API.example blob:",
                "connect-src": "'self'",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
            },
        )

    def test_references_resolve(self) -> None:
        """Every file that the page and its files refer to is served with its type."""
        page = _Names()
        page.feed(self.ask("/", Accept=BROWSER).body.decode())
        self.assertEqual(page.inline, [])
        wanted = set(page.files)
        seen: set[str] = set()
        while wanted - seen:
            path = (wanted - seen).pop()
            seen.add(path)
            answer = self.ask(path)
            self.assertEqual(answer.status, 200, path)
            self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")
            kind = answer.header("Content-Type")
            self.assertEqual(kind, KINDS[path.rpartition(".")[2]], path)
            if path.endswith(".js"):
                imported = re.findall(r'from "\./([\w.]+)"', answer.body.decode())
                wanted.update(f"/playground/{name}" for name in imported)
        served = {f"/playground/{name}" for name in read_files()} - {"/playground/index.html"}
        self.assertEqual(seen, served)

    def test_other_files_are_404(self) -> None:
        """Other names in the folder, and paths out of it, are 404."""
        for path in (
            "/playground/",
            "/playground",
            "/playground/index.html",
            "/playground/nothing.js",
            "/playground/..%2fapi.py",
            "/playground/../api.py",
            "/playground/%2e%2e/api.py",
            "/playground//etc/passwd",
            "/playground/app.js%00",
        ):
            answer = self.ask(path)
            self.assertEqual((answer.status, answer.json["errno"]), (404, 101), path)


class AccountsTests(PageCase):
    """The tokens, which are only for this page."""

    path = "/playground/accounts.json"

    def test_accounts_for_the_page(self) -> None:
        """The page gets its accounts, the limits of an upload, and how pictures are fitted."""
        answer = self.ask(self.path)
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            answer.json,
            {
                "accounts": [
                    {"token": "alice", "email": "alice@example.com"},
                    {"token": "bob", "email": "bob@example.com"},
                ],
                "maxBytes": 1234,
                "maxSide": 16384,
                "heic": True,
                "fit": "cover",
            },
        )
        self.assertEqual(answer.header("Cache-Control"), "no-store")

    def test_other_origins_get_no_tokens(self) -> None:
        """A page of another origin can neither request nor read the tokens."""
        for site in ("cross-site", "same-site", "whatever"):
            answer = self.ask(self.path, Sec_Fetch_Site=site)
            self.assertEqual(answer.status, 404, site)
            self.assertNotIn(b"alice", answer.body)
        for site in ("same-origin", "none"):
            answer = self.ask(self.path, Sec_Fetch_Site=site)
            self.assertEqual(answer.status, 200, site)
            self.assertEqual(answer.header("Access-Control-Allow-Origin"), "https://API.example")
            self.assertEqual(answer.header("Cross-Origin-Resource-Policy"), "same-origin")

    def test_foreign_host_names_get_no_tokens(self) -> None:
        """A request to a foreign host name that resolves to this machine gets no tokens."""
        for host in ("localhost:1111", "127.0.0.1", "127.9.9.9:1", "[::1]:1111", "api.example"):
            self.assertEqual(self.ask(self.path, host=host).status, 200, host)
        for host in (
            "evil.example:1111",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "api.example.evil.example",
            "192.0.2.1",
            "0.0.0.0",
            "[::ffff:192.0.2.1]",
            "[::1",
            "\xff",
            "",
            None,
        ):
            answer = self.ask(self.path, host=host)
            self.assertEqual(answer.status, 400 if host in ("\xff", None) else 404, host)
            self.assertNotIn(b"alice", answer.body)


class PolicyTests(SynchronousTestCase):
    """The origins in the Content-Security-Policy."""

    def test_origins_are_named_once(self) -> None:
        """An origin is named once, with its port and without a user or path."""
        self.assertIn(
            "img-src 'self' http://127.0.0.1:1 blob:;",
            content_security_policy("http://127.0.0.1:1", "http://127.0.0.1:1/x/{id}.png"),
        )
        self.assertIn(
            "img-src 'self' https://*.example:8 http://[::1]:1111 blob:;",
            content_security_policy("http://u:p@[::1]:1111/p", "https://{id}.example:8/a"),
        )

    def test_settings_cannot_inject(self) -> None:
        """No setting can add a directive or a header."""
        policy = content_security_policy("http://ü", "http://a;script-src,*/{id}")
        self.assertTrue(policy.isascii())
        self.assertEqual(policy.count("script-src "), 1)
        self.assertEqual((policy.count(";"), policy.count(",")), (7, 0))


class PreferenceTests(SynchronousTestCase):
    """The Accept header at /."""

    def test_html_needs_a_preference(self) -> None:
        """A client gets HTML only if it prefers it to JSON."""
        for accept in (BROWSER, "text/html", "text/*", "*/*;q=0.1, text/html"):
            self.assertTrue(prefers_html(accept), accept)
        for accept in (
            None,
            "",
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "text/html;q=0.5, application/json",
            "text/html, application/json",
            "text/html;q=0",
            "image/avif,image/webp,*/*",
        ):
            self.assertFalse(prefers_html(accept), accept)

    @given(st.text() | st.from_regex(r"(text/html|\*/\*|[;,=q\"\\ .]|[0-9]+)*", fullmatch=True))
    def test_any_accept_header_is_safe(self, accept: str) -> None:
        """No Accept header raises an error."""
        self.assertIn(prefers_html(accept), (True, False))


class NoPlaygroundTests(TestCase):
    """A service with real accounts."""

    async def test_no_page_with_real_accounts(self) -> None:
        """A service with real accounts has no page and none of its files."""
        settings = {"identity.driver": "fxa"}
        async with Daemon(role="web", settings=settings, preloaded=True) as daemon:
            for path in ("/playground/accounts.json", "/playground/app.js"):
                status, _, body = await deferToThread(_get, daemon.web_url + path)
                self.assertEqual(status, 404, path)
                self.assertIn(b'"errno": 101', body)
            status, kind, _ = await deferToThread(_get, f"{daemon.web_url}/")
            self.assertEqual((status, kind), (200, "application/json; charset=utf-8"))


def _get(url: str) -> tuple[int, str | None, bytes]:
    """Return what a browser gets from a URL.  This blocks."""
    request = urllib.request.Request(url, headers={"Accept": BROWSER})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


class _Names(HTMLParser):
    """
    What a page names.

    :ivar files: the paths of its own files.
    :ivar inline: scripts, styles and handlers in its text, which its policy forbids.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and tag != "a":
                self.files.append(value or "")

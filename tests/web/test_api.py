"""What is the same for every endpoint."""

from __future__ import annotations

from fxprofile.web.api import SECURITY_HEADERS
from tests.web.service import ApiCase


class EveryAnswerTests(ApiCase):
    """Headers, errors and methods."""

    def assert_secure(self, reply) -> None:
        for name in (
            "Strict-Transport-Security",
            "X-Content-Type-Options",
            "X-Frame-Options",
            "Content-Security-Policy",
            "Access-Control-Allow-Origin",
        ):
            self.assertEqual(reply.header(name), SECURITY_HEADERS[name])
        self.assertTrue(reply.header("X-Request-Id"))
        self.assertIsNone(reply.header("Access-Control-Allow-Credentials"))

    async def test_headers(self) -> None:
        """Every answer has the security headers, and none may be kept."""
        for path, status in (("/v1/uid", 200), ("/v1/nothing", 404), ("/v1//uid", 404)):
            reply = await self.ask("GET", path)
            self.assertEqual(reply.status, status)
            self.assert_secure(reply)
            self.assertEqual(
                reply.header("Cache-Control"),
                "private, no-cache, no-store, must-revalidate",
            )
            self.assertEqual(reply.header("Server"), "fxprofile")

    async def test_not_found(self) -> None:
        """An unknown path is JSON with errno 101."""
        reply = await self.ask("GET", "/nothing", token=None)
        self.assertEqual(
            {k: reply.json[k] for k in ("code", "errno", "error")},
            {"code": 404, "errno": 101, "error": "Not Found"},
        )

    async def test_method(self) -> None:
        """A method that a path does not have is 405 and names those that it has."""
        reply = await self.ask("PUT", "/v1/uid")
        self.assertEqual((reply.status, reply.json["errno"]), (405, 101))
        self.assertEqual(reply.header("Allow"), "GET, HEAD")
        self.assert_secure(reply)
        reply = await self.ask("GET", "/v1/avatar/upload")
        self.assertEqual((reply.status, reply.header("Allow")), (405, "POST"))

    async def test_preflight(self) -> None:
        """A browser may ask whether it may ask."""
        reply = await self.ask(
            "OPTIONS",
            "/v1/avatar/upload",
            token=None,
            headers={
                "Origin": "https://example.com",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
            },
        )
        self.assertEqual((reply.status, reply.header("Content-Length")), (204, None))
        self.assertEqual(reply.header("Access-Control-Allow-Origin"), "*")
        self.assertIn("POST", reply.header("Access-Control-Allow-Methods"))
        self.assertIn("Authorization", reply.header("Access-Control-Allow-Headers"))

    async def test_exposed(self) -> None:
        """A page may read the headers that it needs."""
        reply = await self.ask("GET", "/v1/uid")
        exposed = reply.header("Access-Control-Expose-Headers")
        for name in ("ETag", "Last-Modified", "Location", "Retry-After"):
            self.assertIn(name, exposed)

    async def test_bad_tokens(self) -> None:
        """A missing, malformed or unknown token is 401 and says what is wanted."""
        for value in (
            None,
            "",
            "alice",
            "Basic YWxpY2U6",
            "Bearer",
            "Bearer a b",
            "Bearer ä",
            "Bearer nobody",
        ):
            headers = {} if value is None else {"Authorization": value}
            reply = await self.ask("GET", "/v1/uid", token=None, headers=headers)
            self.assertEqual((reply.status, reply.json["errno"]), (401, 100), value)
            self.assertEqual(reply.header("WWW-Authenticate"), "Bearer")

    async def test_two_tokens(self) -> None:
        """Two tokens are as bad as none."""
        reply = await self.raw(
            b"GET /v1/uid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer alice\r\nAuthorization: Bearer bob\r\n\r\n"
        )
        self.assertTrue(reply.startswith(b"HTTP/1.1 401 "), reply)

    async def test_scheme_is_any_case(self) -> None:
        """The scheme of the token is written in whatever case."""
        reply = await self.ask(
            "GET", "/v1/uid", token=None, headers={"Authorization": "bEARER alice"}
        )
        self.assertEqual(reply.status, 200)

    async def test_strange_paths(self) -> None:
        """Paths that no sane client asks for are a clear 4xx."""
        for path in (b"/\xff", b"/%ff%fe", b"*", b"/v1/avatar/%2e%2e%2f", b"/v1/%00"):
            reply = await self.raw(
                b"GET " + path + b" HTTP/1.1\r\nHost: \xff:x\r\nConnection: close\r\n\r\n"
            )
            self.assertTrue(reply.startswith(b"HTTP/1.1 4"), (path, reply))

    async def test_not_http(self) -> None:
        """What is not HTTP gets an answer in HTTP all the same."""
        reply = await self.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        self.assertTrue(reply.startswith(b"HTTP/1.1 400 "), reply)
        self.assertIn(b'"errno": 101', reply)


class DockerflowTests(ApiCase):
    """The paths that operators and load balancers ask."""

    async def get(self, path: str):
        return await self.ask("GET", path, token=None)

    async def test_version(self) -> None:
        """The version names source, version, commit and build."""
        reply = await self.get("/__version__")
        self.assertEqual(set(reply.json), {"source", "version", "commit", "build"})

    async def test_heartbeat(self) -> None:
        """The heartbeat names each dependency, and is 503 when one is not well."""

        async def well() -> None:
            pass

        self.health.add("database", well)
        reply = await self.get("/__heartbeat__")
        self.assertEqual((reply.status, reply.json["checks"]), (200, {"database": "ok"}))

    async def test_sick(self) -> None:
        """The heartbeat is 503 when a dependency is not well."""

        async def ill() -> None:
            raise OSError("away")

        self.health.add("queue", ill)
        reply = await self.get("/__heartbeat__")
        self.assertEqual((reply.status, reply.json["checks"]), (503, {"queue": "fail"}))
        self.assertEqual((await self.get("/__lbheartbeat__")).status, 200)

    async def test_stopping(self) -> None:
        """A process that is about to end wants no more requests."""
        self.health.stopping = True
        self.assertEqual((await self.get("/__lbheartbeat__")).status, 503)
        self.assertEqual((await self.get("/__heartbeat__")).status, 503)

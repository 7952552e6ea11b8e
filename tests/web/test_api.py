"""Behaviour that all endpoints share."""

from __future__ import annotations

import re

from twisted.logger import capturedLogs

from fxprofile.web.api import SECURITY_HEADERS
from tests.web.service import ApiCase


class EveryEndpointTests(ApiCase):
    """Headers, errors and methods of every endpoint."""

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

    async def test_responses_have_security_headers(self) -> None:
        """Every response has the security headers, and forbids caching."""
        for path, status in (("/v1/uid", 200), ("/v1/nothing", 404), ("/v1//uid", 404)):
            reply = await self.ask("GET", path)
            self.assertEqual(reply.status, status)
            self.assert_secure(reply)
            self.assertEqual(
                reply.header("Cache-Control"),
                "private, no-cache, no-store, must-revalidate",
            )
            self.assertEqual(reply.header("Server"), "fxprofile")

    async def test_trace_is_continued_or_new(self) -> None:
        """The log line of a request has the trace of its header, or a new one if it has none."""
        lines = []
        for number in (0, 1, 2):
            headers = "Host: x\r\nConnection: close\r\n"
            headers += f"traceparent: 00-{'a' * 32}-{'b' * 16}-01\r\n" * number
            with capturedLogs() as events:
                await self.raw(f"GET /v1/uid HTTP/1.1\r\n{headers}\r\n".encode())
            lines += [e for e in events if e.get("log_type") == "request.summary"]
        none, one, two = (line["trace_id"] for line in lines)
        self.assertEqual(one, "a" * 32)
        self.assertEqual(len({none, one, two}), 3)
        self.assertEqual((len(none), len(two)), (32, 32))

    async def test_unknown_path_is_404(self) -> None:
        """An unknown path is a JSON 404 with errno 101."""
        reply = await self.ask("GET", "/nothing", token=None)
        self.assertEqual(
            {k: reply.json[k] for k in ("code", "errno", "error")},
            {"code": 404, "errno": 101, "error": "Not Found"},
        )

    async def test_paths_of_the_table_and_of_the_router_respond_alike(self) -> None:
        """A path that is looked up responds as its other spellings do, which are routed."""
        for method in ("GET", "HEAD"):
            responses = set()
            for path in ("/v1/uid", "/v1/uid/", "/v1/%75id", "/v1/uid?x", "/v1/uid/?x"):
                response = await self.raw(
                    f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                responses.add(re.sub(rb"(Date|X-Request-Id): .*", b"", response))
            (response,) = responses
            self.assertTrue(response.startswith(b"HTTP/1.1 200 OK\r\n"), response)

    async def test_other_slashes_than_those_of_a_path_are_404(self) -> None:
        """A path with a further or an encoded slash is 404: to a proxy it is another path."""
        for path in ("//v1/uid", "///v1/uid", "/v1//uid", "/v1%2fuid", "/%2Fv1/uid", "/v1/uid%2F"):
            response = await self.raw(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            self.assertTrue(response.startswith(b"HTTP/1.1 404 "), (path, response))

    async def test_unsupported_method_is_405(self) -> None:
        """An unsupported method is 405, and Allow lists the supported ones."""
        reply = await self.ask("PUT", "/v1/uid")
        self.assertEqual((reply.status, reply.json["errno"]), (405, 101))
        self.assertEqual(reply.header("Allow"), "GET, HEAD")
        self.assert_secure(reply)
        reply = await self.ask("GET", "/v1/avatar/upload")
        self.assertEqual((reply.status, reply.header("Allow")), (405, "POST"))

    async def test_methods_are_case_sensitive(self) -> None:
        """A method in small letters is 405, as any other unknown one is."""
        for method in ("get", "Post", "FETCH"):
            answer = await self.raw(
                f"{method} /v1/uid HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            self.assertTrue(answer.startswith(b"HTTP/1.1 405 "), answer)
            self.assertIn(b"\r\nAllow: GET, HEAD\r\n", answer)

    async def test_long_url_is_414(self) -> None:
        """A URL of more than 2 KiB is refused with an error like any other."""
        reply = await self.ask("GET", "/v1/uid?" + "a" * 3000)
        self.assertEqual((reply.status, reply.json["errno"]), (414, 101))
        self.assert_secure(reply)

    async def test_absolute_form_is_served(self) -> None:
        """A request target in absolute form is served like its path."""
        answer = await self.raw(
            b"GET http://api.example/v1/uid HTTP/1.1\r\nHost: api.example\r\n"
            b"Authorization: Bearer alice\r\nConnection: close\r\n\r\n"
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)

    async def test_cors_preflight(self) -> None:
        """A CORS preflight gets 204, and the allowed methods and headers, configured ones too."""
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
        self.assertEqual(
            reply.header("Access-Control-Allow-Headers").split(", "),
            [
                *("Authorization", "Content-Type", "If-None-Match", "Prefer", "Accept"),
                *("sentry-trace", "baggage", "fxa-ci", "traceparent", "x-one", "x-two"),
            ],
        )

    async def test_exposed_headers(self) -> None:
        """CORS exposes the headers that a page needs."""
        reply = await self.ask("GET", "/v1/uid")
        exposed = reply.header("Access-Control-Expose-Headers")
        for name in ("ETag", "Last-Modified", "Location", "Retry-After"):
            self.assertIn(name, exposed)

    async def test_invalid_token_is_401(self) -> None:
        """A missing, malformed or unknown token is 401 with WWW-Authenticate."""
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

    async def test_two_tokens_are_401(self) -> None:
        """Two Authorization headers are 401."""
        reply = await self.raw(
            b"GET /v1/uid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer alice\r\nAuthorization: Bearer bob\r\n\r\n"
        )
        self.assertTrue(reply.startswith(b"HTTP/1.1 401 "), reply)

    async def test_scheme_ignores_case(self) -> None:
        """The scheme of the Authorization header ignores case."""
        reply = await self.ask(
            "GET", "/v1/uid", token=None, headers={"Authorization": "bEARER alice"}
        )
        self.assertEqual(reply.status, 200)

    async def test_malformed_paths_are_4xx(self) -> None:
        """A request with a malformed path gets a 4xx response."""
        for path in (b"/\xff", b"/%ff%fe", b"*", b"/v1/avatar/%2e%2e%2f", b"/v1/%00"):
            reply = await self.raw(
                b"GET " + path + b" HTTP/1.1\r\nHost: \xff:x\r\nConnection: close\r\n\r\n"
            )
            self.assertTrue(reply.startswith(b"HTTP/1.1 4"), (path, reply))

    async def test_invalid_http_is_400(self) -> None:
        """Invalid HTTP gets a JSON 400."""
        reply = await self.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        self.assertTrue(reply.startswith(b"HTTP/1.1 400 "), reply)
        self.assertIn(b'"errno": 101', reply)


class DockerflowTests(ApiCase):
    """The paths for operators and load balancers."""

    async def get(self, path: str):
        return await self.ask("GET", path, token=None)

    async def test_version_members(self) -> None:
        """The version names source, version, commit and build."""
        reply = await self.get("/__version__")
        self.assertEqual(set(reply.json), {"source", "version", "commit", "build"})

    async def test_heartbeat_names_dependencies(self) -> None:
        """The heartbeat names each dependency."""

        async def well() -> None:
            pass

        self.health.add("database", well)
        reply = await self.get("/__heartbeat__")
        self.assertEqual((reply.status, reply.json["checks"]), (200, {"database": "ok"}))

    async def test_failing_dependency_is_503(self) -> None:
        """The heartbeat is 503 if a dependency fails, and the load balancer's stays 200."""

        async def ill() -> None:
            raise OSError("away")

        self.health.add("queue", ill)
        reply = await self.get("/__heartbeat__")
        self.assertEqual((reply.status, reply.json["checks"]), (503, {"queue": "fail"}))
        self.assertEqual((await self.get("/__lbheartbeat__")).status, 200)

    async def test_stopping_process_is_503(self) -> None:
        """Both heartbeats of a stopping process are 503."""
        self.health.stopping = True
        self.assertEqual((await self.get("/__lbheartbeat__")).status, 503)
        self.assertEqual((await self.get("/__heartbeat__")).status, 503)

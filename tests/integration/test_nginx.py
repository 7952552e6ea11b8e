"""Tests of ``etc/nginx/fxprofile.conf``: nginx in front of a daemon."""

from __future__ import annotations

import json
import socket
import ssl
from http.client import HTTPSConnection
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fxprofile.images.resource import HEADERS
from fxprofile.model.errors import BackendUnavailable, PayloadTooLarge
from fxprofile.web.api import SECURITY_HEADERS
from tests.corpus.jpeg import plain
from tests.support.daemon import Daemon
from tests.support.servers.local import free_port
from tests.support.servers.nginx import PROGRAM, NginxServer

API = "profile.example.com"
IMAGES = "images.example.net"


def context() -> ssl.SSLContext:
    """Return a TLS context that trusts every server, and offers HTTP/2."""
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


class NginxTests(TestCase):
    """nginx with the shipped configuration."""

    if PROGRAM is None:
        skip = "nginx is not installed"

    def start(self, **arguments: Any) -> NginxServer:
        """Start nginx."""
        server = NginxServer(**arguments)
        self.addCleanup(server.remove)
        server.start()
        return server

    async def ask(
        self,
        server: NginxServer,
        method: str,
        path: str,
        *,
        host: str = API,
        body: bytes = b"",
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        """Send a request, and return status, headers and the JSON or the bytes of the response."""

        def run() -> tuple[int, dict[str, str], Any]:
            connection = HTTPSConnection("127.0.0.1", server.port, timeout=60, context=context())
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": host, **fields})
            response = connection.getresponse()
            content, found = response.read(), dict(response.getheaders())
            connection.close()
            is_json = found["Content-Type"].startswith("application/json")
            return response.status, found, json.loads(content) if is_json else content

        return await deferToThread(run)

    async def test_both_origins_are_served(self) -> None:
        """Uploads and pictures pass the proxy, and a refusal comes before the body was sent."""
        async with Daemon(settings={"web.client_address_depth": 1}, preloaded=True) as daemon:
            server = self.start(web=daemon.ports.web, images=daemon.ports.images)
            token = {"Authorization": "Bearer alice", "Content_Type": "image/jpeg"}
            path = "/v1/avatar/upload"
            status, _, answer = await self.ask(server, "POST", path, body=plain(), **token)
            self.assertEqual((status, answer["status"]), (201, "ready"))
            picture = f"/a/{answer['id']}"
            status, _, content = await self.ask(server, "GET", picture, host=IMAGES)
            self.assertEqual((status, content[:4]), (200, b"\x89PNG"))
            status, _, answer = await self.ask(server, "POST", path, Content_Length="1000000")
            self.assertEqual((status, answer["errno"]), (401, 100))

    async def test_http2_is_offered(self) -> None:
        """Both origins negotiate HTTP/2."""
        server = self.start(web=free_port(), images=free_port())
        for host in (API, IMAGES):
            offer = context()
            offer.set_alpn_protocols(["h2", "http/1.1"])
            with (
                socket.create_connection(("127.0.0.1", server.port)) as plain_socket,
                offer.wrap_socket(plain_socket, server_hostname=host) as secure,
            ):
                self.assertEqual(secure.selected_alpn_protocol(), "h2")

    async def test_errors_of_the_proxy_are_those_of_the_api(self) -> None:
        """nginx's own errors have the headers and the JSON of the API's or the images' errors."""
        with socket.create_server(("127.0.0.1", 0)) as hanging:
            port = hanging.getsockname()[1]
            server = self.start(web=free_port(), images=free_port())
            waits = self.start(web=port, images=port, timeout=1)
            large = {"Content_Length": str(12 << 20)}
            for at, host, path, headers, code, errno in (
                (server, API, "/v1/profile", {}, 502, BackendUnavailable.errno),
                (waits, API, "/v1/profile", {}, 504, BackendUnavailable.errno),
                (server, API, "/v1/avatar/upload", large, 413, PayloadTooLarge.errno),
                (server, API, "/" + "x" * 10_000, {}, 414, 101),
                (server, API, "/", {"X_Long": "x" * 10_000}, 400, 101),
                (server, IMAGES, "/a/0", {}, 502, BackendUnavailable.errno),
                (server, IMAGES, "/b", {}, 404, 101),
            ):
                status, found, answer = await self.ask(at, "POST", path, host=host, **headers)
                self.assertEqual((status, answer["code"], answer["errno"]), (code, code, errno))
                self.assertEqual(set(answer), {"code", "errno", "error", "message"})
                expected = SECURITY_HEADERS if host == API else HEADERS
                self.assertEqual({name: found.get(name) for name in expected}, dict(expected))
                self.assertEqual("Retry-After" in found, code > 500, found)

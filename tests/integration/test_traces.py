"""Tests that one trace id follows an upload through the processes and their requests."""

from __future__ import annotations

import re

from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.integration import photos
from tests.integration.client import Client
from tests.integration.cloud import ENVIRON, Cloud
from tests.integration.scene import PipelineCase
from tests.support.daemon import Daemon
from tests.support.servers import moto

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class _Recorded(ProxyServer):
    """A connection whose requests are recorded."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.requests.append(data.decode("latin-1"))
        super().dataReceived(data)


class Recorder(ProxyFactory):
    """A proxy that records what clients send; ``requests`` are pieces of it."""

    protocol = _Recorded

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.requests: list[str] = []

    def heads(self, method: str) -> list[str]:
        """Return the heads of the requests with a method, with their trace."""
        sent = "".join(self.requests)
        heads = re.findall(rf"{method} \S+ HTTP/1.1\r\n.*?\r\n\r\n", sent, re.DOTALL)
        return [head for head in heads if f"traceparent: 00-{TRACE}-" in head.lower()]


class TraceTests(PipelineCase):
    """Web and worker processes."""

    async def upload(self, web: Daemon) -> str:
        """Upload a picture under the trace; return its id when it is ready."""
        status, answer = await Client(web).upload(photos.jpeg(), traceparent=TRACEPARENT)
        self.assertEqual((status, answer["status"]), (201, "ready"))
        return str(answer["id"])

    def traced(self, daemon: Daemon, text: str) -> bool:
        """Return whether a line of a daemon's log has this text and the trace."""
        lines = daemon.output.splitlines()
        return any(text in line and f"trace={TRACE}" in line for line in lines)

    async def test_s3_and_sqs(self) -> None:
        """The trace of an upload is in the logs of web and worker, and on their AWS requests."""
        url = moto.shared.reset()
        host, _, port = url.removeprefix("http://").partition(":")
        recorder = Recorder(host, int(port))
        listening = reactor.listenTCP(0, recorder, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.scene.settings = {
            **Cloud(url).settings,
            "aws.endpoint_url": f"http://127.0.0.1:{listening.getHost().port}",
        }
        self.scene.environ = ENVIRON
        web = await self.scene.daemon("web", uploads__wait=30)
        worker = await self.scene.daemon("worker")
        avatar_id = await self.upload(web)
        self.assertTrue(self.traced(web, "POST /v1/avatar/upload 201"), web.output)
        await self.scene.until(
            lambda: self.traced(worker, f"Avatar {avatar_id} is ready"), "no line of the worker"
        )
        puts = " ".join(recorder.heads("PUT"))
        for path in (f"fxprofile-private/{avatar_id}", f"fxprofile-public/a/{avatar_id}_small"):
            self.assertIn(path, puts)
        self.assertIn(avatar_id, " ".join(recorder.heads("GET")))
        actions = " ".join(recorder.heads("POST")).lower()
        self.assertIn("sendmessage", actions)
        self.assertNotRegex(puts.lower(), r"signedheaders=[\w;-]*traceparent")

    async def test_queue_in_the_database(self) -> None:
        """A queue in the database carries the trace of an upload from web to worker."""
        self.scene.settings = {"queue.driver": "database"}
        web = await self.scene.daemon("web", uploads__wait=30)
        worker = await self.scene.daemon("worker")
        avatar_id = await self.upload(web)
        await self.scene.until(
            lambda: self.traced(worker, f"Avatar {avatar_id} is ready"), "no line of the worker"
        )

    async def test_queue_in_memory(self) -> None:
        """In one process the jobs and results carry the trace of an upload, too."""
        daemon = await self.scene.daemon(uploads__wait=30)
        avatar_id = await self.upload(daemon)
        self.assertTrue(self.traced(daemon, f"Avatar {avatar_id} is ready"), daemon.output)

"""
CPU time of one small HTTP request on kept connections: our agent, Twisted's and treq.

    python -m benchmarks.http_client [--requests 4000] [--rounds 5] [--concurrency 32]

The server is a process of its own that answers every request with the same bytes.  The clients
take turns, and the medians of their rounds are compared, so that the ratios hold whatever else
the machine does.  ``parser only`` is what llhttp needs for the response, and h11, if it is
installed, for the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from httptools import HttpResponseParser
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool, readBody

from fxprofile.http_client.agent import HttpAgent

BODY = b'{"user": "a11ce000a11ce000a11ce000a11ce000", "scope": ["profile"], "client_id": "0"}'
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Date: Sat, 28 Nov 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)
REQUEST_BODY = json.dumps({"token": "0" * 64}).encode()

Call = Callable[[], Awaitable[object]]


class _Server(Protocol):
    def dataReceived(self, data: bytes) -> None:
        # Clients send one request at a time, but perhaps in two pieces: one has a blank line.
        if b"\r\n\r\n" in data:
            self.transport.write(RESPONSE)


def serve() -> None:
    """Run the server, and print its port."""
    factory = Factory.forProtocol(_Server)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1", backlog=512)
    os.write(1, b"%d" % port.getHost().port)
    reactor.run()


class _ServerProcess(ProcessProtocol):
    def __init__(self) -> None:
        self.port: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.port.callback(int(data))

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(None)


def clients(port: int) -> dict[str, Call]:
    """The clients, each with a pool of its own."""
    url = f"http://127.0.0.1:{port}/v1/verify"
    ours = HttpAgent(reactor)
    headers = ((b"Content-Type", b"application/json"), (b"Accept", b"application/json"))
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 100
    agent = Agent(reactor, pool=pool)
    treq = HTTPClient(agent)
    treq_on_ours = HTTPClient(ours)

    async def lean() -> object:
        response = await ours.send(b"POST", url.encode(), headers, REQUEST_BODY)
        return await response.read(1 << 16)

    async def twisted() -> object:
        return await readBody(await agent.request(b"GET", url.encode()))

    async def through_treq(client: HTTPClient) -> object:
        response = await client.post(url, data=REQUEST_BODY, reactor=reactor)
        return await response.content()

    return {
        "our agent (POST)": lean,
        "Twisted's agent (GET)": twisted,
        "treq on Twisted's (POST)": lambda: through_treq(treq),
        "treq on ours (POST)": lambda: through_treq(treq_on_ours),
    }


async def measure(call: Call, requests: int, concurrency: int) -> float:
    """Return the microseconds of CPU that a request takes."""

    async def run() -> None:
        for _ in range(requests // concurrency):
            await call()

    began = time.process_time()
    await gatherResults([Deferred.fromCoroutine(run()) for _ in range(concurrency)])
    return (time.process_time() - began) / (requests // concurrency * concurrency) * 1e6


class _Ignore:
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_body(self, data: bytes) -> None: ...


def parsers(requests: int) -> dict[str, float]:
    """Return the microseconds that each parser takes for the response."""

    def llhttp() -> None:
        HttpResponseParser(_Ignore()).feed_data(RESPONSE)

    found: dict[str, Callable[[], None]] = {"parser only: llhttp": llhttp}
    try:
        import h11
    except ImportError:
        pass
    else:

        def pure_python() -> None:
            connection = h11.Connection(h11.CLIENT)
            connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
            connection.send(h11.EndOfMessage())
            connection.receive_data(RESPONSE)
            while type(connection.next_event()) is not h11.EndOfMessage:
                pass

        found["parser only: h11, with its request"] = pure_python
    times = {}
    for name, parse in found.items():
        began = time.process_time()
        for _ in range(requests):
            parse()
        times[name] = (time.process_time() - began) / requests * 1e6
    return times


async def run(options: argparse.Namespace) -> None:
    """Measure all, and print a table."""
    server = _ServerProcess()
    command = [sys.executable, "-m", "benchmarks.http_client", "--serve"]
    process = reactor.spawnProcess(server, command[0], command, env=None)
    try:
        calls = clients(await server.port)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(options.rounds + 1):
            for name, call in calls.items():
                spent = await measure(call, options.requests, options.concurrency)
                # The first round opens the connections.
                if number:
                    times[name].append(spent)
    finally:
        process.signalProcess("TERM")
        await server.ended
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = medians["our agent (POST)"]
    for name, spent in (medians | parsers(options.requests)).items():
        print(f"{name:36} {spent:7.1f} µs {spent / best:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    if options.serve:
        serve()
    else:
        react(lambda _: Deferred.fromCoroutine(run(options)))


if __name__ == "__main__":
    main()

"""The moto server, which simulates S3, SQS and IAM, in a child process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from threading import Lock, Thread
from typing import Any
from urllib.request import Request, urlopen

from tests.support.servers.child import ChildServer

#: An access key that moto accepts.
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class MotoServer(ChildServer):
    """
    A moto server.

    :param environ: additional environment variables of the child.
    """

    # Its imports take long.
    patience = 120
    hint = ": is moto[server] installed?"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._environ = dict(environ or {})

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "tests.support.servers.moto")

    def environ(self) -> Mapping[str, str]:
        return self._environ

    def reset(self) -> str:
        """Remove all buckets and queues, and return the URL."""
        self.post("/moto-api/reset")
        return self.url

    def post(self, path: str, body: bytes = b"") -> bytes:
        """Post to the server, and return the response."""
        # moto does not see the body of a form, which is urllib's default.
        headers = {"Content-Type": "text/plain"}
        request = Request(self.url + path, data=body, headers=headers, method="POST")
        with urlopen(request) as answer:
            return answer.read()


#: The server of the tests that do not need one of their own.
shared = MotoServer()


def receive_one_by_one() -> None:
    """
    Let one request at a time look for visible messages.

    Two threads of moto would find the same message visible, and give it to two consumers.
    """
    from moto.sqs.models import SQSBackend

    lock = Lock()
    receive = SQSBackend.receive_message

    def receive_message(
        self: Any, name: str, count: int, wait: int, *arguments: Any, **keywords: Any
    ) -> Any:
        ends = time.monotonic() + wait
        while True:
            with lock:
                found = receive(self, name, count, 0, *arguments, **keywords)
            if found or time.monotonic() >= ends:
                return found
            self.get_queue(name).wait_for_messages(1)

    SQSBackend.receive_message = receive_message


def main() -> None:
    """Run the server in the child process."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from twisted.internet import reactor as any_reactor
    from twisted.python.threadpool import ThreadPool
    from twisted.web.server import Site
    from twisted.web.wsgi import WSGIResource

    receive_one_by_one()
    reactor: Any = any_reactor
    # Each long poll occupies a thread.
    pool = ThreadPool(0, 200)
    pool.start()
    # Like AWS, and unlike moto's own server, it keeps connections open.
    app = WSGIResource(reactor, pool, DomainDispatcherApplication(create_backend_app))
    port = reactor.listenTCP(0, Site(app), interface="127.0.0.1")
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port.getHost().port}"}) + "\n")
    sys.stdout.flush()
    Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()

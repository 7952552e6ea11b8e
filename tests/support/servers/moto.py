"""An S3 and SQS server in a child process: moto's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from urllib.request import Request, urlopen

from tests.support.servers.talking import TalkingServer

#: What moto takes for good keys.
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class MotoServer(TalkingServer):
    """
    All of AWS that the tests need.

    :param environ: further environment of the child.
    """

    # It imports a lot.
    patience = 120
    hint = ": is moto[server] installed?"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._environ = dict(environ or {})

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "tests.support.servers.moto")

    def environ(self) -> Mapping[str, str]:
        return self._environ

    def reset(self) -> None:
        """Forget all buckets and queues."""
        self.post("/moto-api/reset")

    def post(self, path: str, body: bytes = b"") -> bytes:
        """Tell the server something, and wait for it."""
        # As a form, which is urllib's default, it would not reach who reads the body.
        headers = {"Content-Type": "text/plain"}
        request = Request(self.url + path, data=body, headers=headers, method="POST")
        with urlopen(request) as answer:
            return answer.read()


#: The server that tests share which do not need one of their own.
shared = MotoServer()


def main() -> None:
    """What the child does."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    sys.stdout.write(json.dumps({"url": f"http://{host}:{port}"}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()

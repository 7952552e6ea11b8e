"""The moto server, which simulates S3, SQS and IAM, in a child process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
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

    def reset(self) -> None:
        """Remove all buckets and queues."""
        self.post("/moto-api/reset")

    def post(self, path: str, body: bytes = b"") -> bytes:
        """Post to the server, and return the response."""
        # moto does not see the body of a form, which is urllib's default.
        headers = {"Content-Type": "text/plain"}
        request = Request(self.url + path, data=body, headers=headers, method="POST")
        with urlopen(request) as answer:
            return answer.read()


#: The server of the tests that do not need one of their own.
shared = MotoServer()


def main() -> None:
    """Run the server in the child process."""
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

"""
An S3 and SQS server in a child process: moto's.

The child says where it listens in one line of JSON, and ends when its standard input does,
so that it cannot outlive the tests.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import SkipTest
from urllib.request import Request, urlopen

#: Seconds that the server gets to start; it imports a lot.
PATIENCE = 120

#: What moto takes for good keys.
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class MotoServer:
    """
    A server, started when it is first asked for.

    :param environ: further environment of the child.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """
        Where it listens.

        :raises SkipTest: if it cannot be started.
        """
        if self._process is None:
            self._start()
        return self._url

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.moto"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **self._environ},
        )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise SkipTest("moto's server does not start: is moto[server] installed?")
        self._url = json.loads(line)["url"]
        self._process = process
        atexit.register(self.stop)

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

    def stop(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


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

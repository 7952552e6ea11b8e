"""
Servers in child processes that report their address.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import SkipTest


class ChildServer:
    """
    A server in a child process, started when its URL is first used.

    The child writes its URL in one line of JSON, and ends when its standard input is closed,
    so that it does not outlive the tests.

    :cvar patience: seconds that it may take to start.
    :cvar hint: a likely cause if it does not start.
    """

    patience = 60
    hint = ""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def command(self) -> Sequence[str | Path]:
        """
        Return the command that starts it.

        :raises SkipTest: if it is not installed.
        """
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        """Return additional environment variables of the child."""
        return {}

    @property
    def url(self) -> str:
        """
        The URL of the server.

        :raises SkipTest: if it cannot be started.
        """
        if self._process is None:
            self._start()
        return self._url

    def _start(self) -> None:
        process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[3],
            env={**os.environ, **self.environ()},
        )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], self.patience)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise SkipTest(f"{type(self).__name__} does not start{self.hint}")
        self._url = json.loads(line)["url"]
        self._process = process
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the server."""
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

"""
Read a profile 20 times a second, until the standard input is closed; print the times as JSON.

    python -m benchmarks.probe PORT
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from select import select
from statistics import median

TOKEN = "user0"


class Probe:
    """The program in a child process, so that the work of its parent delays no read."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.probe", str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> str:
        """Stop, and return how long the reads took and how many failed."""
        output, _ = self._process.communicate()
        times, errors = json.loads(output)
        text = f"{1000 * median(times):.0f} / {1000 * max(times):.0f} ms"
        return text + "".join(f", {number} × {error}" for error, number in errors.items())


def main(port: int) -> None:
    """Read, each time on a new connection."""
    times: list[float] = []
    errors: collections.Counter[str] = collections.Counter()
    while not times or not select([sys.stdin], [], [], 0.05)[0]:
        began = time.monotonic()
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/v1/uid", headers={"Authorization": f"Bearer {TOKEN}"})
            status = connection.getresponse().status
            connection.close()
            if status != 200:
                errors[str(status)] += 1
        except (OSError, HTTPException) as error:
            errors[type(error).__name__] += 1
        times.append(time.monotonic() - began)
    print(json.dumps([times, errors]))


if __name__ == "__main__":
    main(int(sys.argv[1]))

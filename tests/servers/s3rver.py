"""
A second S3 server in a child process: s3rver, from npm, behind TLS.

It is installed into a folder of the user's cache when it is first asked for.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.ssl import PrivateCertificate

from tests.aws.tls import make_certificate

VERSION = "3.7.1"

#: Seconds for npm to install it, and for it to start.
INSTALL_PATIENCE = 180
PATIENCE = 60

#: The keys that it knows.
ACCESS_KEY = SECRET_KEY = "S3RVER"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "fxprofile-tests" / f"s3rver-{VERSION}"


def install() -> Path:
    """
    Have it installed.

    :returns: the folder of the modules.
    :raises SkipTest: if that cannot be done here.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise SkipTest("s3rver needs node and npm")
    folder = _cache()
    modules = folder / "node_modules"
    done = folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
            try:
                subprocess.run(
                    [npm, "install", *options, f"s3rver@{VERSION}"],
                    check=True,
                    capture_output=True,
                    timeout=INSTALL_PATIENCE,
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise SkipTest(f"npm cannot install s3rver: {error}") from None
            done.touch()
    return modules


class S3rver:
    """
    A server with one bucket, ``bucket``, started when it is first asked for.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._url = ""
        self.certificate: PrivateCertificate = make_certificate()

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
        modules = install()
        self._folder = tempfile.mkdtemp(prefix="s3rver-")
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        pem = Path(self._folder) / "server.pem"
        key = self.certificate.privateKey.original.to_cryptography_key()
        pem.write_bytes(
            self.certificate.dumpPEM().split(b"-----BEGIN PRIVATE")[0]
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        process = subprocess.Popen(
            ["node", Path(__file__).with_suffix(".js"), f"{self._folder}/buckets", pem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NODE_PATH": str(modules)},
        )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise SkipTest("s3rver does not start")
        self._url = json.loads(line)["url"]
        self._process = process
        atexit.register(self.stop)

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


#: The server that tests share.
shared = S3rver()

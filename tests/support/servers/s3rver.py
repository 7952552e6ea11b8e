"""
The s3rver server from npm, which simulates S3, in a child process, with TLS or without.

It is installed into the user's cache folder when it is first used.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.ssl import PrivateCertificate

from tests.drivers.aws.tls import make_certificate
from tests.support.servers.child import ChildServer

VERSION = "3.7.1"

#: Seconds that its installation may take.
INSTALL_PATIENCE = 180

#: The only access key that it accepts.
ACCESS_KEY = SECRET_KEY = "S3RVER"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "fxprofile-tests" / f"s3rver-{VERSION}"


def _modules() -> Path:
    return _cache() / "node_modules"


def install() -> None:
    """
    Install s3rver unless it is installed.

    :raises SkipTest: if it cannot be installed.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise SkipTest("s3rver needs node and npm")
    folder = _cache()
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


class S3rver(ChildServer):
    """
    A server with one bucket, ``bucket``.

    :param tls: whether it has TLS.
    """

    def __init__(self, *, tls: bool) -> None:
        super().__init__()
        self._tls = tls
        self.certificate: PrivateCertificate = make_certificate()

    def command(self) -> Sequence[str | Path]:
        install()
        folder = tempfile.mkdtemp(prefix="s3rver-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        pem = Path(folder) / "server.pem"
        key = self.certificate.privateKey.original.to_cryptography_key()
        pem.write_bytes(
            self.certificate.dumpPEM().split(b"-----BEGIN PRIVATE")[0]
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        script = Path(__file__).with_suffix(".js")
        return ("node", script, f"{folder}/buckets", *([pem] if self._tls else []))

    def environ(self) -> Mapping[str, str]:
        return {"NODE_PATH": str(_modules())}


#: The servers that tests share.
shared = S3rver(tls=True)
without_tls = S3rver(tls=False)

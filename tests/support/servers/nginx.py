"""
An nginx server with the configuration that operators copy.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.drivers.aws.tls import make_certificate
from tests.support.servers.local import LocalServer

CONFIGURATION = Path(__file__).parents[3] / "etc/nginx/fxprofile.conf"

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_BODIES = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class NginxServer(LocalServer):
    """
    nginx with ``etc/nginx/fxprofile.conf``, in which only ports, certificates and timeouts differ.

    :param web: the port of the API behind it.
    :param images: the port of the images behind it.
    :param timeout: seconds that it waits for a response of them.
    """

    def __init__(self, *, web: int, images: int, timeout: int = 60) -> None:
        super().__init__("nginx")
        text = CONFIGURATION.read_text()
        certificate = self.directory / "localhost.pem"
        certificate.write_bytes(make_certificate().dumpPEM())
        for pattern, replacement in (
            (r"listen 443\b", f"listen 127.0.0.1:{self.port}"),
            (r"127\.0\.0\.1:1111\b", f"127.0.0.1:{web}"),
            (r"127\.0\.0\.1:1112\b", f"127.0.0.1:{images}"),
            (r"/etc/ssl/\S+(?=;)", str(certificate)),
            (r"proxy_read_timeout 60s", f"proxy_read_timeout {timeout}s"),
        ):
            text, number = re.subn(pattern, replacement, text)
            if not number:
                raise AssertionError(f"{CONFIGURATION} does not have {pattern}")
        (self.directory / "fxprofile.conf").write_text(text)
        folders = "".join(f"{n}_temp_path {self.directory}/{n};\n" for n in _BODIES)
        (self.directory / "nginx.conf").write_text(
            "daemon off; master_process off; pid pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off;\n{folders} include fxprofile.conf; }}\n"
        )

    def command(self) -> Sequence[str]:
        """Return the command line."""
        return [PROGRAM or "nginx", "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

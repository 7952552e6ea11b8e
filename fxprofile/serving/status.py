"""
The status page of the admin listener: live plots of the metrics, and the dependencies.

It is one document without outside resources; its policy allows the script and the style in it
by their hashes, and requests to the same listener.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

from twisted.web.resource import Resource

from fxprofile.serving.channel import StreamingRequest

_DIRECTORY: Final = Path(__file__).with_name("status_page")


class StatusPage(Resource):
    """
    The page.

    :param script: the content of its script element, and ``style`` of its style element.
    """

    def __init__(self, html: str, *, script: str, style: str) -> None:
        super().__init__()
        html = html.replace("</style>", f"{style}</style>")
        self._body = html.replace("</script>", f"{script}</script>").encode()
        self._headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": (
                f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
                "connect-src 'self'; img-src data:; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    @classmethod
    def read(cls) -> StatusPage:
        """
        Return the page of the package.

        This blocks: call it before the reactor runs.

        :raises OSError: if the package is incomplete.
        """
        html, script, style = (
            (_DIRECTORY / name).read_text() for name in ("index.html", "status.js", "style.css")
        )
        return cls(html, script=script, style=style)

    def render_GET(self, request: StreamingRequest) -> bytes:
        for name, value in self._headers.items():
            request.setHeader(name, value)
        return self._body


def _source(text: str) -> str:
    """Return the source expression for an inline element (Content Security Policy Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

"""
The playground: a page on which developers try the API, and see what users would see of it.

It exposes the tokens of the development accounts, so it is for loopback listeners only.
Because any web site can send a developer's browser there, its files and tokens are readable
by pages of its own origin only.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Never
from urllib.parse import quote, urlsplit

import attrs
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from fxprofile.model.errors import NotFound
from fxprofile.settings.model import Settings
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.operations import Operation

_DIRECTORY: Final = Path(__file__).with_name("playground")

#: The types of the page's files; nothing else in that folder is served.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_PAGE: Final = "index.html"


@attrs.define(kw_only=True, eq=False, slots=False)
class Playground:
    """
    The page, its files, and its accounts.

    :param settings: name the users that the page can act as, and what it explains.
    :param files: see :func:`read_files`.
    """

    _settings: Settings
    _files: Mapping[str, bytes]

    def page(self) -> ApiResponse[Never]:
        """Answer ``GET /`` to a browser; :class:`Dockerflow` routes it here."""
        public_url, image_template = self._settings.web.public_url, self._settings.images.url
        headers = {
            "Content-Type": _TYPES[".html"],
            "Content-Security-Policy": content_security_policy(public_url, image_template),
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        return ApiResponse(200, self._files[_PAGE], headers)

    @Operation("GET /playground/<name>", documented=False)
    async def get_file(self, call: ApiRequest, name: str) -> ApiResponse[str]:
        """Return a file of the page."""
        if name == _PAGE or name not in self._files:
            raise NotFound()
        headers = {"Content-Type": _TYPES[Path(name).suffix], **self._same_origin}
        return ApiResponse(200, self._files[name], headers)

    @Operation("GET /playground/accounts.json", documented=False)
    async def get_accounts(self, call: ApiRequest) -> ApiResponse[dict[str, object]]:
        """
        Return the accounts that the page can act as, and the settings that it explains.

        :raises NotFound: if the request comes from another origin, or was sent to a foreign
            host name that resolves to this machine (DNS rebinding).
        """
        same_site = call.header("Sec-Fetch-Site") in (None, "same-origin", "none")
        if not same_site or not self._is_own_host(call.header("Host")):
            raise NotFound()
        accounts = [
            {"token": account.token.get_secret_value(), "email": account.email}
            for account in self._settings.identity.dev.accounts
        ]
        body = {
            "accounts": accounts,
            "maxBytes": self._settings.uploads.max_bytes,
            "maxSide": self._settings.crunch.max_side,
            "heic": self._settings.crunch.heic,
            "fit": self._settings.crunch.fit,
        }
        return ApiResponse(200, body, {"Cache-Control": "no-store", **self._same_origin})

    @property
    def _same_origin(self) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": _origin(self._settings.web.public_url),
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def _is_own_host(self, authority: str | None) -> bool:
        try:
            host = urlsplit(f"//{authority}").hostname or ""
            own = ("localhost", urlsplit(self._settings.web.public_url).hostname)
            return host in own or ip_address(host).is_loopback
        except ValueError:
            return False


def read_files() -> Mapping[str, bytes]:
    """
    Return the files of the page, by name.

    This blocks: call it before the reactor runs.

    :raises OSError: if the package is incomplete.
    """
    return {path.name: path.read_bytes() for path in _DIRECTORY.iterdir() if path.suffix in _TYPES}


def content_security_policy(public_url: str, image_template: str) -> str:
    """
    Return the policy of the page (Content Security Policy Level 3).

    :param public_url: the setting ``web.public_url``.
    :param image_template: the setting ``images.url``.
    """
    images = dict.fromkeys(["'self'", _origin(image_template), _origin(public_url), "blob:"])
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src {' '.join(images)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


#: The length of an Accept header that is parsed, in bytes; with a longer one JSON is sent.
MAX_ACCEPT = 512


def prefers_html(accept: str | None) -> bool:
    """
    Return whether a client prefers HTML to JSON (RFC 9110, section 12.5.1).

    :param accept: its ``Accept`` header.  On equal preference it gets JSON.
    """
    if accept is not None and len(accept) > MAX_ACCEPT:
        return False
    accepted = parse_accept_header(accept, MIMEAccept)
    return accepted.best_match(["application/json", "text/html"]) == "text/html"


def _origin(url: str) -> str:
    """Return the origin of a URL from the settings, quoted for use in a header."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].replace("{id}", "*")
    return f"{parts.scheme}://{quote(host, safe='.:[]*')}"

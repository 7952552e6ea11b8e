"""Read and delete avatars."""

from __future__ import annotations

import unicodedata
from html import escape

from fxprofile.model.avatars import Status
from fxprofile.model.errors import MethodNotAllowed, NotFound, Unauthorized
from fxprofile.model.keys import DEFAULT_AVATAR_ID, initial, is_id
from fxprofile.profiles.read import Profiles
from fxprofile.serving.conditional import matches
from fxprofile.uploads.selection import NotTheOwner, Selection
from fxprofile.web.api import Api, ApiRequest, ApiResponse

#: A week, in seconds: a letter never looks other than it did.
MONOGRAM_AGE = 7 * 86400

# Dark enough for white letters (WCAG 2.2, success criterion 1.4.3).
_COLOURS = ("#5b4b8a", "#0a6b7c", "#8a2f55", "#2f5d9e", "#3d6b2e", "#8a4b0f", "#6b3fa0", "#9e2f2f")

_MONOGRAM = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200" width="200" height="200" '
    'role="img" aria-label="{letter}"><rect width="200" height="200" fill="{colour}"/>'
    '<text x="100" y="100" dy=".36em" text-anchor="middle" fill="#fff" font-size="104" '
    "font-family=\"Inter,system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif\">"
    "{letter}</text></svg>"
)


class Avatars:
    """The endpoints of avatars."""

    def __init__(self, *, profiles: Profiles, selection: Selection, monograms: bool) -> None:
        self._profiles = profiles
        self._selection = selection
        self._monograms = monograms

    def add_to(self, api: Api) -> None:
        """Register the endpoints."""
        api.route("GET", "/v1/avatar", scopes=("profile:avatar",))(self.avatar)
        api.route("DELETE", "/v1/avatar", scopes=("profile:avatar:write",))(self.delete_current)
        api.route("DELETE", "/v1/avatar/<name>", scopes=("profile:avatar:write",))(self.delete)
        api.route("GET", "/v1/avatar/<name>")(self.monogram)

    async def avatar(self, call: ApiRequest) -> ApiResponse:
        """``GET /v1/avatar``."""
        body, latest = await self._profiles.avatar(token=call.token, credentials=call.credentials)
        headers = {"ETag": f'"{body["id"]}"'}
        if latest is not None and latest.status is Status.PROCESSING:
            body["pending"] = {"id": latest.id, "status": latest.status.value}
        elif matches(call.header("If-None-Match"), str(body["id"])):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, body, headers)

    async def delete_current(self, call: ApiRequest) -> ApiResponse:
        """``DELETE /v1/avatar``: the present one, and uploads that are being processed."""
        if not await self._selection.delete(uid=call.uid, avatar_id=None):
            raise NotFound("There is no avatar to delete.")
        return ApiResponse(200, {})

    async def delete(self, call: ApiRequest, name: str) -> ApiResponse:
        """``DELETE /v1/avatar/{id}``."""
        if name == DEFAULT_AVATAR_ID:
            return ApiResponse(200, {})
        _not_upload(name)
        if not is_id(name):
            raise NotFound("There is no avatar with this id.")
        try:
            deleted = await self._selection.delete(uid=call.uid, avatar_id=name)
        except NotTheOwner:
            raise Unauthorized("This avatar is not yours.") from None
        if not deleted:
            raise NotFound("There is no avatar with this id.")
        return ApiResponse(200, {})

    async def monogram(self, call: ApiRequest, name: str) -> ApiResponse:
        """``GET /v1/avatar/{c}``: one letter or digit as a picture."""
        _not_upload(name)
        letter = initial(name)
        if not self._monograms or letter is None or len(unicodedata.normalize("NFC", name)) != 1:
            raise NotFound("A monogram is of one letter or digit.")
        svg = _MONOGRAM.format(
            letter=escape(letter), colour=_COLOURS[ord(letter) % len(_COLOURS)]
        ).encode()
        headers = {
            "Content-Type": "image/svg+xml",
            "Cache-Control": f"public, max-age={MONOGRAM_AGE}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "ETag": f'"{ord(letter):x}"',
        }
        if matches(call.header("If-None-Match"), f"{ord(letter):x}"):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, svg, headers)


def _not_upload(name: str) -> None:
    """``/v1/avatar/upload`` is a path of its own, which can do one thing only."""
    if name == "upload":
        raise MethodNotAllowed(headers={"Allow": "POST"})

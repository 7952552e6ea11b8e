"""Read and delete avatars, and draw monograms."""

from __future__ import annotations

from html import escape
from typing import cast

import attrs

from fxprofile.model.avatars import Status
from fxprofile.model.errors import (
    AuthServerUnavailable,
    BackendUnavailable,
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)
from fxprofile.model.keys import DEFAULT_AVATAR_ID, is_id, monogram
from fxprofile.profiles.read import Profiles
from fxprofile.uploads.selection import NotTheOwner, Selection
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.models import AvatarBody, AvatarId, EmptyBody, IfNoneMatch, Letter, Svg
from fxprofile.web.operations import Operation

_WRITE = ("profile:avatar:write",)

#: How long a monogram may be cached, in seconds: a week.
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


@attrs.define(kw_only=True, eq=False, slots=False)
class AvatarEndpoints:
    """
    The endpoints of avatars.

    :param monograms: the setting ``monogram.enabled``.
    """

    _profiles: Profiles
    _selection: Selection
    _monograms: bool

    @Operation(
        "GET /v1/avatar",
        scopes=("profile:avatar",),
        errors=(AuthServerUnavailable, BackendUnavailable),
        headers={"ETag": "The id of the avatar."},
        responses={304: "The avatar has not changed."},
        parameters={"If-None-Match": IfNoneMatch},
        activity="avatar.get",
    )
    async def get_avatar(self, call: ApiRequest) -> ApiResponse[AvatarBody]:
        """Return the avatar."""
        body, pending = await self._profiles.avatar(token=call.token, credentials=call.credentials)
        headers = {"ETag": f'"{body["id"]}"'}
        # The letter may have changed, and the id has not.
        is_monogram = body["id"] == DEFAULT_AVATAR_ID and not body["avatarDefault"]
        if pending is not None:
            body["pending"] = {"id": pending, "status": Status.PROCESSING.value}
        elif not is_monogram and call.has_current(body["id"]):
            return ApiResponse(304, None, headers)
        return ApiResponse(200, cast(AvatarBody, body), headers)

    @Operation(
        "DELETE /v1/avatar", scopes=_WRITE, errors=(BackendUnavailable,), activity="avatar.delete"
    )
    async def delete_avatar(self, call: ApiRequest) -> ApiResponse[EmptyBody]:
        """Delete the avatar, and uploads that are being processed."""
        if not await self._selection.delete(uid=call.uid, avatar_id=None):
            raise NotFound("There is no avatar to delete.")
        return ApiResponse(200, {})

    @Operation(
        "DELETE /v1/avatar/<name>",
        scopes=_WRITE,
        errors=(BackendUnavailable,),
        activity="avatar.delete",
    )
    async def delete_avatar_by_id(self, call: ApiRequest, name: AvatarId) -> ApiResponse[EmptyBody]:
        """Delete one avatar; ``default`` and the id of the default avatar do nothing."""
        if name in (DEFAULT_AVATAR_ID, "default"):
            return ApiResponse(200, {})
        _check_is_not_upload(name)
        if not is_id(name):
            raise BadRequest("The id of an avatar has 32 lower-case hexadecimal digits.")
        try:
            deleted = await self._selection.delete(uid=call.uid, avatar_id=name)
        except NotTheOwner:
            raise Unauthorized("This avatar is not yours.") from None
        if not deleted:
            raise NotFound("There is no avatar with this id.")
        return ApiResponse(200, {})

    @Operation(
        "GET /v1/avatar/<name>",
        produces=("image/svg+xml",),
        responses={304: "The picture has not changed."},
        parameters={"If-None-Match": IfNoneMatch},
    )
    async def get_monogram(self, call: ApiRequest, name: Letter) -> ApiResponse[Svg]:
        """Return the monogram of a letter or digit; ``?`` stands for other characters."""
        _check_is_not_upload(name)
        letter = monogram(name) if self._monograms else None
        if letter is None:
            raise NotFound("A monogram has exactly one character.")
        # The title case of some letters, such as the German sharp s, is two letters.
        letter = letter[0].title()[0] + letter[1:]
        etag = letter.encode().hex()
        headers = {
            "Content-Type": "image/svg+xml",
            "Cache-Control": f"public, max-age={MONOGRAM_AGE}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "ETag": f'"{etag}"',
        }
        if call.has_current(etag):
            return ApiResponse(304, None, headers)
        colour = _COLOURS[ord(letter[0]) % len(_COLOURS)]
        svg = _MONOGRAM.format(letter=escape(letter), colour=colour)
        return ApiResponse(200, svg.encode(), headers)


def _check_is_not_upload(name: str) -> None:
    """Refuse ``/v1/avatar/upload``, a path of its own that supports POST only."""
    if name == "upload":
        raise MethodNotAllowed(headers={"Allow": "POST"})

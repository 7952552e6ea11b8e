"""
Upload an avatar, and read the status of an upload.

Everything that can refuse an upload before its body is read is called here: its headers, load
shedding, the rate limits, and the fraud and abuse server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import attrs
from pydantic import Field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from werkzeug.http import parse_list_header

from fxprofile.model.avatars import REASONS, Avatar, Status
from fxprofile.model.errors import (
    AccountUnknown,
    ApiError,
    BackendUnavailable,
    BadRequest,
    ClientGone,
    CrunchError,
    DriverError,
    ExpectationFailed,
    InvalidToken,
    LengthRequired,
    NotFound,
    PayloadTooLarge,
    RequestBlocked,
    TooManyRequests,
    UnprocessableImage,
    UnsupportedMediaType,
)
from fxprofile.model.keys import image_url, is_id
from fxprofile.model.ports import IIdentity, IProfileStore
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.overload import LoadShedder
from fxprofile.uploads.selection import Selection
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.limits import RateLimiter, address_of
from fxprofile.web.models import ID, PLACEHOLDER, URL, AvatarId, UploadBody, UploadFailureBody
from fxprofile.web.operations import Operation

if TYPE_CHECKING:
    from fxprofile.drivers.fxa.customs import Customs

#: The accepted values of Content-Type.  The actual type is determined from the bytes.
TYPES = (
    "image/jpeg",
    "image/jpg",
    "image/pjpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/heic",
    "image/heif",
)

#: The longest time that a client may ask to wait for the result, in seconds.
MAX_WAIT = 30

#: The length of a Prefer header that is read, in bytes.
MAX_PREFER = 1024

#: The token of an upload that took longer than this, in seconds, is verified again.
SLOW = 1.0

_READY: UploadBody = {"id": ID, "url": URL, "status": "ready", "placeholder": PLACEHOLDER}
_PROCESSING: UploadBody = {"id": ID, "url": URL, "status": "processing"}
_FAILED: UploadBody = {
    "id": ID,
    "url": URL,
    "status": "failed",
    "error": {"reason": "corrupt", "message": REASONS["corrupt"]},
}
_Prefer = Annotated[
    str,
    Field(
        description=f"`respond-async`, or `wait=N` with at most {MAX_WAIT} seconds (RFC 7240).",
        examples=["wait=10"],
    ),
]


@attrs.define(kw_only=True, eq=False, slots=False)
class UploadAdmission:
    """
    Admits or refuses an upload by its user and its client address.

    :param limiter: counts the uploads.
    :param customs: the fraud and abuse server, or None.
    """

    _limiter: RateLimiter
    _customs: Customs | None

    async def admit(self, *, uid: str, address: str | None) -> None:
        """
        Count an upload against the rate limits, and ask the fraud and abuse server.

        :param address: as :func:`fxprofile.web.limits.client_address` returns it.
        :raises TooManyRequests: if a limit is reached; it says when to try again.
        :raises RequestBlocked: if the fraud and abuse server blocks the user.
        """
        await self._limiter.count(uid=uid, address=address)
        if self._customs is not None:
            await self._customs.check(action="avatarUpload", address=address, uid=uid)


@attrs.define(kw_only=True, eq=False, slots=False)
class UploadEndpoints:
    """
    The endpoints of uploads.

    :param identity: verifies tokens.
    :param max_bytes: the setting ``uploads.max_bytes``.
    :param wait: the setting ``uploads.wait``.
    :param address_depth: the setting ``web.client_address_depth``.
    :param image_template: the setting ``images.url``.
    """

    _log = Logger()

    _intake: Intake
    _selection: Selection
    _store: IProfileStore
    _identity: IIdentity
    _shedder: LoadShedder
    _admission: UploadAdmission
    _metrics: Metrics
    _clock: IReactorTime
    max_bytes: int
    wait: float
    _image_template: str
    _address_depth: int

    @Operation(
        "POST /v1/avatar/upload",
        scopes=("profile:avatar:write",),
        errors=(
            *(RequestBlocked, LengthRequired, ExpectationFailed, UnprocessableImage),
            *(TooManyRequests, BackendUnavailable),
        ),
        status=201,
        examples={201: (_READY, _PROCESSING)},
        headers={
            "Location": "The URL of its status.",
            "Preference-Applied": "The preference that was applied (RFC 7240).",
        },
        parameters={"Prefer": _Prefer},
        accepts=TYPES,
        activity="avatar.upload",
    )
    async def upload_avatar(self, call: ApiRequest) -> ApiResponse[UploadBody]:
        """Upload an avatar: the body is the image itself."""
        try:
            length = self._length(call)
            _check_type(call)
            wait, applied = self._preference(call)
            address = address_of(call.request, self._address_depth)
            async with self._shedder.admitted(uid=call.uid, length=length) as keep:
                await self._admission.admit(uid=call.uid, address=address)
                began = self._clock.seconds()
                avatar = await self._intake.accept(
                    uid=call.uid, body=call.request.body, length=length, keep=keep
                )
            if self._clock.seconds() - began >= SLOW:
                await self._verify_again(call, avatar)
        except (AccountUnknown, ApiError, CrunchError, InvalidToken):
            self._metrics.uploads.labels("refused").inc()
            raise
        except ClientGone:
            self._metrics.uploads.labels("aborted").inc()
            raise
        except DriverError:
            self._metrics.uploads.labels("failed").inc()
            raise
        self._metrics.uploads.labels("accepted").inc()
        self._metrics.upload_bytes.inc(length)
        # The client has waited since its last byte, while the upload was stored.
        wait -= self._clock.seconds() - call.request.body.completed_at
        if wait > 0:
            avatar = await self._selection.wait(avatar, wait)
        if avatar.status is Status.FAILED:
            raise UnprocessableImage(avatar.failure)
        headers = {"Location": f"/v1/avatar/upload/{avatar.id}"}
        if applied:
            headers["Preference-Applied"] = applied
        return ApiResponse(201, self._describe(avatar), headers)

    async def _verify_again(self, call: ApiRequest, avatar: Avatar) -> None:
        """
        Verify that the account still exists.

        If it was deleted while the body arrived, there was no row yet to delete with it.

        :raises InvalidToken: if the token has become invalid; the avatar is then deleted.
        """
        try:
            await self._identity.verify(token=call.token)
        except InvalidToken:
            await self._selection.delete(uid=call.uid, avatar_id=avatar.id)
            raise
        except DriverError as error:
            # The token was valid at the start, and the upload is already accepted.
            self._log.warn(
                "The token of upload {id} was not verified again: {error}",
                id=avatar.id,
                error=error,
            )

    @Operation(
        "GET /v1/avatar/upload/<avatar_id>",
        scopes=("profile:avatar",),
        errors=(BackendUnavailable,),
        examples={200: (_PROCESSING, _FAILED)},
    )
    async def get_upload(self, call: ApiRequest, avatar_id: AvatarId) -> ApiResponse[UploadBody]:
        """Return the status of an upload."""
        avatar: Avatar | None = None
        if is_id(avatar_id):
            avatar = await self._store.avatar(avatar_id=avatar_id)
        if avatar is None or avatar.uid != call.uid or avatar.status is Status.DELETING:
            raise NotFound("You have no upload with this id.")
        return ApiResponse(200, self._describe(avatar))

    def _describe(self, avatar: Avatar) -> UploadBody:
        # An upload that its owner deletes while its request waits counts as replaced.
        status = Status.REPLACED if avatar.status is Status.DELETING else avatar.status
        described: UploadBody = {
            "id": avatar.id,
            "url": image_url(self._image_template, avatar.id),
            "status": status.value,
        }
        if avatar.placeholder is not None and status is Status.READY:
            described["placeholder"] = avatar.placeholder
        if avatar.status is Status.FAILED:
            reason = avatar.failure
            described["error"] = UploadFailureBody(reason=reason, message=REASONS[reason])
        return described

    def _length(self, call: ApiRequest) -> int:
        expect = call.header("Expect")
        if expect is not None and expect.lower() != "100-continue":
            raise ExpectationFailed()
        if call.header("Transfer-Encoding") is not None:
            raise LengthRequired("Send a Content-Length header instead of a chunked body.")
        text = call.header("Content-Length")
        if text is None:
            raise LengthRequired("Send a Content-Length header.")
        length = int(text)
        if length > self.max_bytes:
            raise PayloadTooLarge(
                f"An image may have at most {self.max_bytes} bytes.", maxBytes=self.max_bytes
            )
        if length == 0:
            raise BadRequest("The body is empty; send the bytes of an image.")
        return length

    def _preference(self, call: ApiRequest) -> tuple[float, str | None]:
        """
        Return how long to wait for the result, and the preference that was applied.

        See RFC 7240, sections 4.1 and 4.3.
        """
        text = call.header("Prefer") or ""
        # A server may ignore preferences (section 2).
        parts = parse_list_header(text) if len(text) <= MAX_PREFER else []
        preferences = [part.partition(";")[0].strip(" \t").lower() for part in parts]
        for preference in preferences:
            name, _, value = preference.partition("=")
            digits = value.strip(" \t").removeprefix('"').removesuffix('"')
            if name.rstrip(" \t") == "wait" and digits.isascii() and digits.isdigit():
                seconds = min(int(digits), MAX_WAIT)
                return seconds, f"wait={seconds}"
        if "respond-async" in preferences:
            return 0, "respond-async"
        return self.wait, None


def _check_type(call: ApiRequest) -> None:
    encoding = call.header("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the image as it is, without a Content-Encoding.")
    content_type = (call.header("Content-Type") or "").split(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        raise UnsupportedMediaType(
            "Send the bytes of the image as the body, not as a field of a form."
        )
    if content_type not in TYPES:
        raise UnsupportedMediaType(
            "The Content-Type must be image/jpeg, image/png, image/gif, image/webp or image/avif."
        )

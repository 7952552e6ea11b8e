"""Upload an avatar, and read the status of an upload."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from werkzeug.http import parse_list_header

from fxprofile.model.avatars import REASONS, Avatar, Status
from fxprofile.model.errors import (
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
from fxprofile.uploads.selection import Selection
from fxprofile.web.admission import UploadAdmission
from fxprofile.web.api import ApiRequest, ApiResponse
from fxprofile.web.models import ID, PLACEHOLDER, URL, AvatarId, UploadBody, UploadFailureBody
from fxprofile.web.operations import Operation

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


class UploadEndpoints:
    """
    The endpoints of uploads.

    :param identity: verifies tokens.
    :param max_bytes: the setting ``uploads.max_bytes``.
    :param wait: the setting ``uploads.wait``.
    :param image_template: the setting ``images.url``.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        intake: Intake,
        selection: Selection,
        store: IProfileStore,
        identity: IIdentity,
        admission: UploadAdmission,
        metrics: Metrics,
        clock: IReactorTime,
        max_bytes: int,
        wait: float,
        image_template: str,
    ) -> None:
        self._intake = intake
        self._selection = selection
        self._store = store
        self._identity = identity
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._max_bytes = max_bytes
        self._wait = wait
        self._image_template = image_template

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
    )
    async def upload_avatar(self, call: ApiRequest) -> ApiResponse[UploadBody]:
        """Upload an avatar: the body is the image itself."""
        try:
            length = self._length(call)
            _check_type(call)
            wait, applied = self._preference(call)
            await self._admission.admit(call)
            began = self._clock.seconds()
            avatar = await self._intake.accept(uid=call.uid, body=call.request.body, length=length)
            if self._clock.seconds() - began >= SLOW:
                await self._verify_again(call, avatar)
        except (ApiError, CrunchError, InvalidToken):
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
        avatar = await self._selection.wait(avatar, wait)
        if avatar.status is Status.FAILED:
            raise UnprocessableImage(avatar.error or "crashed")
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
            raise NotFound("There is no upload of yours with this id.")
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
            reason = avatar.error or "crashed"
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
        if length > self._max_bytes:
            raise PayloadTooLarge(
                f"An image may have at most {self._max_bytes} bytes.", maxBytes=self._max_bytes
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
        preferences = [part.split(";")[0].strip().lower() for part in parse_list_header(text)]
        for preference in preferences:
            match = re.fullmatch(r'wait\s*=\s*"?0*(\d+)"?', preference, re.ASCII)
            if match:
                digits = match.group(1)
                seconds = MAX_WAIT if len(digits) > 2 else min(int(digits), MAX_WAIT)
                return seconds, f"wait={seconds}"
        if "respond-async" in preferences:
            return 0, "respond-async"
        return self._wait, None


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

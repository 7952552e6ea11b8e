"""
Signatures, version 4.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest

from fxprofile.drivers.aws.credentials import Keys

#: Instead of the digest of a body, where TLS guards it.
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"

#: Instead of the digest of a body that is followed by its checksum.
UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class _Signer(SigV4Auth):
    """
    botocore's signer at a time that we choose, and without its log, which holds tokens.
    """

    def add_auth(self, request: AWSRequest) -> None:
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        signature = self.signature(self.string_to_sign(request, canonical), request)
        self._inject_signature_to_request(request, signature)

    def payload(self, request: AWSRequest) -> str:
        return request.context.get("payload") or super().payload(request)


class _S3Signer(_Signer, S3SigV4Auth):
    """S3 always wants the digest in a header, and paths as they are."""


def sign(
    request: AWSRequest,
    *,
    keys: Keys,
    service: str,
    region: str,
    seconds: float,
    payload: str | None = None,
) -> None:
    """
    Add the headers that sign a request.

    :param service: by the name that signatures know it by.
    :param seconds: the time of AWS, since the epoch.
    :param payload: stands for the digest of the body, if the body is not in the request.
    """
    context: dict[str, Any] = request.context
    context["timestamp"] = datetime.fromtimestamp(seconds, UTC).strftime(SIGV4_TIMESTAMP)
    context["payload"] = payload
    signer = _S3Signer if service == "s3" else _Signer
    signer(keys, service, region).add_auth(request)

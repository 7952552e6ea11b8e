"""
A proxy between a role and AWS that enforces the IAM policy of the role.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import treq
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.drivers.aws.recording import RIGHTS, allows

_OBJECT = {
    "PUT": "s3:PutObject",
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "DELETE": "s3:DeleteObject",
}

#: Headers that a proxy does not forward: RFC 9110, section 7.6.1, and those that treq sets.
_OURS = {b"connection", b"transfer-encoding", b"content-length", b"host", b"expect"}


class PolicyProxy(Resource):
    """
    A proxy in front of an AWS server.

    :ivar refused: the denied actions, with their resources.
    :ivar used: the allowed actions that were used.
    """

    isLeaf = True

    def __init__(self, role: str, url: str) -> None:
        super().__init__()
        self.role = role
        self.refused: set[tuple[str, str]] = set()
        self.used: set[str] = set()
        self._url = url

    def listen(self, reactor: Any) -> Any:
        """Listen on a free local port."""
        return reactor.listenTCP(0, Site(self), interface="127.0.0.1")

    def render(self, request: Request) -> int:
        gone = request.notifyFinish()
        answering = Deferred.fromCoroutine(self._answer(request))
        gone.addErrback(lambda _: answering.cancel())
        answering.addErrback(lambda failure: None)
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        body = request.content.read()
        wanted = _wanted(request, body)
        denied = {need for need in wanted if not allows(self.role, *need)}
        if denied or not wanted:
            self.refused |= denied
            request.setResponseCode(403)
            if request.getHeader(b"X-Amz-Target"):
                request.write(b'{"__type": "com.amazonaws.sqs#AccessDenied", "message": "no"}')
            elif request.method != b"HEAD":
                request.write(b"<Error><Code>AccessDenied</Code></Error>")
            request.finish()
            return
        self.used |= {right for right, _ in wanted}
        headers = {
            name: values
            for name, values in request.requestHeaders.getAllRawHeaders()
            if name.lower() not in _OURS
        }
        response = await treq.request(
            request.method.decode(),
            self._url + request.uri.decode(),
            headers=headers,
            data=body,
            unbuffered=True,
            persistent=False,
        )
        content = await response.content()
        request.setResponseCode(response.code)
        for name, values in response.headers.getAllRawHeaders():
            if name.lower() not in _OURS or request.method == b"HEAD":
                request.responseHeaders.setRawHeaders(name, values)
        if request.method != b"HEAD":
            request.setHeader("Content-Length", str(len(content)))
        request.write(content)
        request.finish()


def _wanted(request: Request, body: bytes) -> set[tuple[str, str]]:
    """Return the actions that a request needs, with their resources."""
    target = request.getHeader("X-Amz-Target")
    if target is not None:
        operation = target.rpartition(".")[2]
        account, name = urlsplit(json.loads(body)["QueueUrl"]).path.strip("/").split("/")
        return {(RIGHTS[operation], f"arn:aws:sqs:us-east-1:{account}:{name}")}
    bucket, _, key = unquote(request.path.decode()).strip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    method = request.method.decode()
    if key:
        return {(_OBJECT[method], f"{arn}/{key}")}
    if method == "POST":
        keys = re.findall(r"<Key>([^<]*)</Key>", body.decode())
        return {("s3:DeleteObject", f"{arn}/{key}") for key in keys}
    return {("s3:ListBucket", arn)}

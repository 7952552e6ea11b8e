"""The lines of an upload request."""

from __future__ import annotations

UPLOAD = b"POST /v1/avatar/upload HTTP/1.1\r\nHost: x\r\n"
BEARER = b"Authorization: Bearer alice\r\n"
IMAGE = b"Content-Type: image/jpeg\r\n"
CLOSE = b"Connection: close\r\n"
CONTINUE = b"Expect: 100-continue\r\n"

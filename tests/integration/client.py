"""A client of a daemon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.support.daemon import Daemon

#: Seconds until a test gives up.
PATIENCE = 60


class Client:
    """A client with the token of one development account."""

    def __init__(self, daemon: Daemon, token: str = "alice") -> None:
        self._daemon = daemon
        self._token = token

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request, and return the status and the JSON of the response."""
        response = await treq.request(
            method,
            self._daemon.web_url + path,
            headers={"Authorization": f"Bearer {self._token}", **(headers or {})},
            data=body,
            persistent=False,
            timeout=PATIENCE,
        )
        content = await response.content()
        return response.code, json.loads(content) if content else None

    async def upload(
        self, body: bytes, content_type: str = "image/jpeg", **headers: str
    ) -> tuple[int, Any]:
        return await self.ask(
            "POST", "/v1/avatar/upload", body, {"Content-Type": content_type, **headers}
        )

    async def status(self, avatar_id: str) -> str | None:
        status, answer = await self.ask("GET", f"/v1/avatar/upload/{avatar_id}")
        return answer["status"] if status == 200 else None

    async def until(self, avatar_id: str, *wanted: str | None) -> None:
        """Wait until an upload has this status, or one of several."""
        deadline = reactor.seconds() + PATIENCE
        while (status := await self.status(avatar_id)) not in wanted:
            if reactor.seconds() > deadline:
                raise AssertionError(f"{avatar_id} is {status}, not {wanted}")
            await deferLater(reactor, 0.1)

    async def picture(self, url: str, accept: str = "*/*") -> tuple[int, bytes]:
        """Return the image at a URL."""
        response = await treq.get(
            url, headers={"Accept": accept}, persistent=False, timeout=PATIENCE
        )
        return response.code, await response.content()

    async def until_picture(self, url: str, wanted: int) -> None:
        """Wait until the URL of an image has an image, or has none."""
        deadline = reactor.seconds() + PATIENCE
        while (status := (await self.picture(url))[0]) != wanted:
            if reactor.seconds() > deadline:
                raise AssertionError(f"{url} is {status}, not {wanted}")
            await deferLater(reactor, 0.1)

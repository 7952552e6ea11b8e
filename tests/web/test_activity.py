"""The activity events that the API logs."""

from __future__ import annotations

from dataclasses import replace

from twisted.logger import LogEvent, globalLogPublisher

from fxprofile.drivers.dev.identity import DevIdentity
from fxprofile.model.keys import new_id
from fxprofile.model.profiles import Credentials
from tests.web.service import ALICE, ApiCase

CLIENT = "5882386c6d801776"


class ClientIdentity(DevIdentity):
    """Accounts whose tokens belong to a client, except those of :attr:`others`."""

    others = ("bob",)

    async def verify(self, *, token: str) -> Credentials:
        credentials = await super().verify(token=token)
        return credentials if token in self.others else replace(credentials, client_id=CLIENT)


class ActivityTests(ApiCase):
    """Events in the log about what users do."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def make_identity(self) -> DevIdentity:
        return ClientIdentity(self.accounts())

    def activity(self) -> list[LogEvent]:
        """Return the activity events since the last call."""
        found = [event for event in self.events if event.get("log_type") == "activityEvent"]
        self.events.clear()
        return found

    async def test_each_activity_is_one_event(self) -> None:
        """Reads and changes of avatar and name each log one event with user, agent and client."""
        avatar_id = await self.avatar_of()
        self.activity()
        image, agent = {"Content-Type": "image/jpeg"}, {"User-Agent": "Firefox/140"}
        for method, path, body, event in (
            ("POST", "/v1/avatar/upload", b"\xff\xd8\xff\xe0" + bytes(100), "avatar.upload"),
            ("GET", "/v1/avatar", None, "avatar.get"),
            ("DELETE", f"/v1/avatar/{avatar_id}", None, "avatar.delete"),
            ("DELETE", "/v1/avatar", None, "avatar.delete"),
            ("POST", "/v1/display_name", b'{"displayName": "Zoe"}', "displayName.post"),
            ("GET", "/v1/display_name", None, "displayName.get"),
        ):
            headers = agent | (image if event == "avatar.upload" else {})
            await self.ask(method, path, headers=headers, body=body)
            (logged,) = self.activity()
            members = {name: logged[name] for name in ("event", "uid", "agent", "client_id")}
            expected = {"event": event, "uid": ALICE, "agent": "Firefox/140"}
            self.assertEqual(members, {**expected, "client_id": CLIENT})
            self.assertFalse([value for value in logged.values() if "alice@" in str(value)])

    async def test_text_names_the_client(self) -> None:
        """The text of an event names the client of the token, if it is known."""
        texts = {}
        for token in ("alice", "bob"):
            await self.ask("GET", "/v1/display_name", token=token)
            (event,) = self.activity()
            texts[token] = event["summary"].replace(event["uid"], "U")
        self.assertEqual(texts["alice"], f"displayName.get of user U by client {CLIENT}")
        self.assertEqual(texts["bob"], "displayName.get of user U")

    async def test_refused_requests_are_no_activity(self) -> None:
        """A refused request and other endpoints log no such event."""
        for method, path, body in (
            ("POST", "/v1/display_name", b"{}"),
            ("DELETE", f"/v1/avatar/{new_id()}", None),
            ("GET", "/v1/profile", None),
            ("GET", "/v1/avatar/z", None),
        ):
            await self.ask(method, path, body=body)
        await self.ask("GET", "/v1/avatar", token="unknown")
        self.assertEqual(self.activity(), [])

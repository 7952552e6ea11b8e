"""The JSON log of a daemon has one line for each request, and no secrets."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from tests.integration import photos
from tests.integration.accounts import SECRET, AccountsCase, event
from tests.support.fakes.oauth import Said, error

#: The members of a line (https://wiki.mozilla.org/Firefox/Services/Logging), with types.
MEMBERS = {
    "Timestamp": int,
    "Type": str,
    "Logger": str,
    "Hostname": str,
    "EnvVersion": str,
    "Severity": int,
    "Pid": int,
    "Fields": dict,
}

SUMMARY = {"method", "route", "status", "errno", "ms", "uid_hash", "request_id", "trace_id"}

#: Part of every secret that is sent here.
MARK = "5e4re7"


def hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


class MozlogTests(AccountsCase):
    """A daemon that logs at the most verbose level."""

    settings: ClassVar[dict[str, object]] = {
        "logging.format": "mozlog",
        "logging.level": "debug",
        "uploads.per_hour": 5,
    }

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log, each of which must be JSON."""
        return [json.loads(line) for line in self.daemon.output.splitlines()]

    def summaries(self) -> dict[str, dict[str, Any]]:
        """The line of each request, by its id."""
        found = [line["Fields"] for line in self.lines() if line["Type"] == "request.summary"]
        summaries = {fields["request_id"]: fields for fields in found}
        self.assertEqual(len(summaries), len(found), "a request has two lines, or no id")
        return summaries

    async def test_request_summaries(self) -> None:
        """Each request has one summary line with its fields, and without secrets."""
        alice = self.account()
        there = "0123456789abcdef" * 2
        expected = {}
        for method, path, who, route, status, errno in (
            ("GET", "/v1/profile?x=y", alice, "/v1/profile", 200, 0),
            ("HEAD", "/v1/profile", alice, "/v1/profile", 200, 0),
            ("GET", "/v1/display_name", alice, "/v1/display_name", 204, 0),
            ("GET", "/v1/avatar/A", None, "/v1/avatar/<name>", 200, 0),
            ("GET", "/v1/uid", "unknown", "/v1/uid", 401, 100),
            ("GET", "/v1/uid", None, "/v1/uid", 401, 100),
            ("GET", "/v1/email", self.account("basket"), "/v1/email", 403, 100),
            ("DELETE", f"/v1/avatar/{there}", alice, "/v1/avatar/<name>", 404, 101),
            ("GET", f"/v1/avatar/upload/{there}", alice, "/v1/avatar/upload/<avatar_id>", 404, 101),
        ):
            reply = await self.ask(method, path, who)
            self.assertEqual(reply.status, status, path)
            uid = getattr(who, "uid", None)
            expected[reply.header("X-Request-Id")] = {
                "method": method,
                "route": route,
                "status": status,
                "errno": errno,
                "uid_hash": "" if uid is None else hashed(uid),
            }
        summaries = self.summaries()
        for request_id, fields in expected.items():
            said = summaries[request_id]
            self.assertEqual(set(said), SUMMARY)
            self.assertEqual({name: said[name] for name in fields}, fields)
            self.assertIs(type(said["ms"]), int)

    async def test_unknown_paths_are_not_logged(self) -> None:
        """The path of a request without an endpoint is not logged."""
        for path in (f"/{MARK}", f"/v1/profile/{MARK}", f"/%ff{MARK}", f"/v1/avatar/{MARK}"):
            reply = await self.ask("GET", path, None)
            self.assertIn(reply.status, (400, 404))
            said = self.summaries()[reply.header("X-Request-Id")]
            self.assertEqual((said["status"], said["errno"]), reply.error)
        self.assertNotIn(MARK, self.daemon.output)

    async def provoke(self) -> None:
        """Send requests that fail in every way, each marked as secret."""
        alice = self.account(
            token=f"alice{MARK}", email=f"alice{MARK}@example.com", locale=f"x-{MARK}"
        )
        names = (f"Alice {MARK}", f"{MARK}\0", MARK * 60)
        for name in names:
            await self.ask("POST", "/v1/display_name", alice, {"displayName": name})
        for body in (b"{" + MARK.encode(), b'"' + MARK.encode() + b'"', b"\xff" + MARK.encode()):
            await self.ask("POST", "/v1/display_name", alice, body)
        await self.profile(alice)
        for token in (f"unknown{MARK}", f"not valid {MARK}", f"x{MARK}.y{MARK}.z", SECRET):
            await self.ask("GET", "/v1/profile", token)
            await self.ask("DELETE", f"/v1/cache/{alice.uid}", token)
        await self.ask("GET", f"/v1/profile?access_token={MARK}", None)
        await self.ask("GET", f"/v1/avatar/{MARK}", None)
        odd = {"Authorization": f"Basic {MARK}", "Prefer": MARK, "X-Forwarded-For": MARK}
        await self.ask("GET", "/v1/profile", None, headers=odd)
        await self.ask("POST", f"/v1/_display_name/{alice.uid}", SECRET, {"name": f"A{MARK}"})

        upload = {"Content-Type": "image/jpeg", **odd, "Authorization": f"Bearer {alice.token}"}
        for body in (
            photos.jpeg(64, 64),
            photos.jpeg(200, 200)[:900] + MARK.encode() * 20,
            MARK.encode() * 50,
            b"\x89PNG\r\n\x1a\n" + MARK.encode() * 50,
            *[photos.jpeg(64, 64)] * 2,
        ):
            await self.ask("POST", "/v1/avatar/upload", None, body, upload)

        for answer, status in (
            (error(400, 107, f"Bad {MARK}"), 400),
            (Said(404, body=MARK.encode()), 400),
            (error(500, 999, f"Broken {MARK}"), 503),
            (Said(302, {}, headers={"location": f"http://127.0.0.1:1/{MARK}"}), 503),
            (Said(members={"email": [MARK], "locale": {MARK: MARK}}), 503),
            (Said(body=b'{"email": "' + MARK.encode() + b'\\ud800"}'), 503),
            (error(401, 110, f"Gone {MARK}"), 401),
        ):
            self.auth.answer = self.oauth_or(answer)
            reply = await self.ask("GET", "/v1/email", alice)
            self.assertEqual(reply.status, status)
        self.auth.answer = None
        self.oauth.answer = lambda seen: Said(members={"user": MARK, "scope": [MARK]})
        self.assertEqual((await self.ask("GET", "/v1/uid", alice)).status, 503)
        self.oauth.answer = None
        await self.close(self.place.auth_port)
        self.assertEqual((await self.ask("GET", "/v1/email", alice)).status, 503)
        await self.close(self.place.oauth_port)
        self.assertEqual((await self.ask("GET", "/v1/uid", alice)).status, 503)

        events = self.queue("events")
        for message in (
            MARK,
            json.dumps({"Message": MARK}),
            json.dumps([MARK]),
            event(f"odd{MARK}", alice.uid, email=MARK),
            event("delete", MARK, email=MARK),
            event("primaryEmailChanged", alice.uid, email=f"{MARK}@example.com"),
            event("delete", f"{alice.uid}@{MARK}.example.com"),
        ):
            await events.send(body=message)

        async def read() -> bool:
            return (await events.depth()).visible == 0

        await self.until(read, "the events are not read")

    def oauth_or(self, answer: Said) -> Any:
        """Return a server that gives this response to every request."""
        return lambda seen: answer

    async def test_log_has_no_secrets(self) -> None:
        """The log contains no token, address, name or body after any failure and after a stop."""
        await self.provoke()
        await self.daemon.stop()
        self.addCleanup(self.daemon.start)
        lines = self.lines()
        for secret in (MARK, SECRET, "example.com"):
            told = [line for line in lines if secret in json.dumps(line, ensure_ascii=False)]
            self.assertEqual(told, [], secret)
        # Each request has been logged.
        statuses = {fields["status"] for fields in self.summaries().values()}
        self.assertLessEqual({200, 201, 400, 401, 404, 422, 429, 503}, statuses)
        self.assertEqual([line for line in lines if "traceback" in line["Fields"]], [])
        for line in lines:
            self.assertEqual(
                {name: type(value) for name, value in line.items()}, MEMBERS, "a member is odd"
            )
            self.assertEqual((line["Logger"], line["EnvVersion"]), ("fxprofile", "2.0"))
            self.assertIn(line["Severity"], range(8))
        self.assertEqual([line["Timestamp"] for line in lines if line["Timestamp"] < 10**18], [])

"""
What the web role does when something happened to an account.

The auth server publishes through Amazon SNS, so each message is an envelope whose
``Message`` is JSON again.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import Logger

from fxprofile.model.errors import MalformedMessage
from fxprofile.model.keys import is_uid
from fxprofile.model.messages import Message
from fxprofile.model.ports import Handler, IIdentity
from fxprofile.profiles.invalidation import Changes
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.selection import Selection

#: Events after which the kept profile of a user is old.  Newer auth servers have another name
#: for the last one.
_PROFILE_CHANGED = ("primaryEmailChanged", "profileDataChanged", "profileDataChange")

#: Events after which the tokens of a user may be so too.
_TOKENS_REVOKED = ("passwordChange", "reset")

#: All that there is something to do about.
EVENTS = ("delete", *_PROFILE_CHANGED, *_TOKENS_REVOKED)

_log = Logger()


def accounts_handler(
    *, selection: Selection, changes: Changes, identity: IIdentity, metrics: Metrics
) -> Handler:
    """
    Make the handler of the account events queue.

    :returns: for a :class:`fxprofile.worker.poller.Poller`.
    """

    async def handle(message: Message) -> None:
        event = decode(message.body)
        name = event.get("event")
        if name not in EVENTS:
            return
        uid = _uid(event.get("uid"))
        if uid is None:
            _log.warn("An account event {event} names no uid that there can be", event=name)
            return
        metrics.account_events.labels(name).inc()
        try:
            if name not in _PROFILE_CHANGED:
                await identity.forget(uid=uid)
        finally:
            # If tokens cannot be spoken of now, the event comes back; the rest need not wait.
            if name == "delete":
                await selection.delete_user(uid)
            else:
                await changes.forget(uid)

    return handle


def decode(text: str) -> dict[str, Any]:
    """
    The event in an envelope.

    :raises MalformedMessage: if it is none.
    """
    return _members(_members(text, "the envelope").get("Message"), "the Message")


def _members(text: object, what: str) -> dict[str, Any]:
    try:
        members = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise MalformedMessage(f"{what} of an account event is not a JSON object")
    return members


def _uid(uid: object) -> str | None:
    """The uid of an event, without the domain that may follow it."""
    if not isinstance(uid, str):
        return None
    uid = uid.partition("@")[0].lower()
    return uid if is_uid(uid) else None

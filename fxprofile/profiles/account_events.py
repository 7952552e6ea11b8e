"""
The handler of account events, which the auth server publishes through Amazon SNS.

Each message is an SNS envelope whose ``Message`` is a JSON text.
"""

from __future__ import annotations

import json
from typing import Final

import attrs
from twisted.logger import Logger

from fxprofile.model.errors import MalformedMessage
from fxprofile.model.keys import is_uid
from fxprofile.model.messages import Message
from fxprofile.model.ports import IIdentity
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.selection import Selection

#: Events that change the profile.  The last one is the former name of the second.
_PROFILE_CHANGED: Final = ("primaryEmailChanged", "profileDataChanged", "profileDataChange")

#: Events that may also revoke tokens.
_TOKENS_REVOKED: Final = ("passwordChange", "reset")

#: All events that are handled; others are acknowledged unread.
EVENTS: Final = ("delete", *_PROFILE_CHANGED, *_TOKENS_REVOKED)


@attrs.define(kw_only=True, eq=False, slots=False)
class AccountEvents:
    """Applies account events: invalidates profiles and tokens, and deletes users."""

    _log = Logger()

    _selection: Selection
    _invalidator: ProfileInvalidator
    _identity: IIdentity
    _metrics: Metrics

    async def handle(self, message: Message) -> None:
        """
        Apply an event.

        :raises MalformedMessage: if the message is not an account event.
        :raises DriverError: if it could not be applied and should be received again.
        """
        event = decode(message.body)
        name = event.get("event")
        if not isinstance(name, str) or name not in EVENTS:
            return
        uid = _uid(event.get("uid"))
        if uid is None:
            self._log.warn("Account event {event} ignored: it has no valid uid", event=name)
            return
        self._metrics.account_events.labels(name).inc()
        try:
            if name not in _PROFILE_CHANGED:
                await self._identity.invalidate_tokens(uid=uid)
        finally:
            # If this fails the event is received again, but the rest need not wait for it.
            if name == "delete":
                await self._selection.delete_user(uid)
            else:
                await self._invalidator.invalidate(uid)


def decode(text: str) -> dict[str, object]:
    """
    Return the event in an SNS envelope.

    :raises MalformedMessage: if there is none.
    """
    return _members(_members(text, "the envelope").get("Message"), "the Message")


def _members(text: object, what: str) -> dict[str, object]:
    try:
        members = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise MalformedMessage(f"{what} of an account event is not a JSON object")
    return members


def _uid(uid: object) -> str | None:
    """Return the uid of an event in lower case, without the domain that may follow it."""
    if not isinstance(uid, str):
        return None
    uid = uid.partition("@")[0].lower()
    return uid if is_uid(uid) else None

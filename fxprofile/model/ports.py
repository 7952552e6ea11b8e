"""
What a driver has to do.

Each interface has at least two implementations, and one contract in
``tests/contracts.py`` that all of them pass.  Methods are called by keyword where
they take more than one argument.  All of them raise the
:class:`fxprofile.model.errors.DriverError` of their kind, and no other error, when the
outside fails; an outside that hangs is such a failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final, Protocol

from zope.interface import Attribute, Interface

from fxprofile.model.avatars import Avatar, Crunched, Status, Variant
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.profiles import Account, Credentials, Profile


@dataclass(frozen=True)
class ObjectInfo:
    """
    What a bucket knows of an object.

    :ivar etag: an opaque tag without quotes, other for other bytes.
    :ivar modified: seconds since the epoch.
    """

    key: str
    length: int
    etag: str
    modified: float


class Body(Protocol):
    """
    Bytes that come in pieces, when they are asked for: an asynchronous iterator
    that can be given up early.

    Asking for the next piece is the back-pressure: whoever produces them holds at
    most one piece that was not asked for.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Give up the rest, and whatever it holds.  Harmless when repeated."""


class IBucket(Interface):
    """A flat store of objects under keys that :mod:`fxprofile.model.keys` makes."""

    async def put(*, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Store an object under a key, in place of an older one.

        Nobody sees the object before it is complete and durable; if this fails in
        any way, cancellation included, nothing stays.

        :param length: how many bytes the body has.
        :raises BodyMismatch: if the body has more or fewer.
        :raises StorageError: if it could not be stored.
        :raises Exception: whatever the body raises.
        """

    async def get(*, key: str) -> tuple[ObjectInfo, Body]:
        """
        Open an object.  The caller closes the body.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: here, or out of the body.
        """

    async def head(*, key: str) -> ObjectInfo:
        """
        Look at an object without its bytes.

        :raises ObjectNotFound: if there is none.
        """

    async def delete(*, keys: Sequence[str]) -> None:
        """Remove objects.  Those that are not there count as removed."""

    async def list(*, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        """
        At most ``limit`` objects whose keys begin with a prefix, in the order of
        their keys.

        :param after: only keys that sort after this one; empty for all.
        """

    async def check() -> None:
        """
        See whether the bucket can be used, at the cost of one small call.

        :raises StorageError: if not.
        """


#: Messages of one receive; Amazon SQS allows no more.
BATCH: Final = 10

#: Does the work of one message.  It raises :class:`fxprofile.model.errors.MalformedMessage` if
#: the message can never be understood, and anything else if it is to be tried again.
Handler = Callable[[Message], Awaitable[None]]


class IQueue(Interface):
    """
    A queue with visibility timeouts, as Amazon SQS has them: at least once, in no
    promised order.  A message that was received ``max_receives`` times without being
    deleted goes to the dead-letter queue, which is a queue like any other.
    """

    name = Attribute("What logs and metrics call this queue.")

    async def send(*, body: str) -> None:
        """Put a message on the queue.  When this returns it is durable."""

    async def receive(
        *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        """
        Take messages and hide them from others for a while.

        :param max_messages: 1 to 10.
        :param wait: seconds to wait for the first one, 0 to 20.  Cancelling the
            wait loses no message.
        :param visibility: seconds to hide them for, in place of the queue's visibility
            timeout.
        :returns: no message if none came in time.
        """

    async def extend(*, message: Message, visibility: float) -> None:
        """
        Hide a received message for so many seconds from now; 0 hands it back.

        :raises LeaseLost: if it is no longer ours.
        """

    async def delete(*, message: Message) -> None:
        """
        Remove a received message: its work is done.

        A message that is no longer ours, or gone, is left as it is, silently.
        """

    async def depth() -> QueueDepth:
        """How much waits on the queue, about."""

    async def check() -> None:
        """
        See whether the queue can be used, at the cost of one small call.

        :raises QueueError: if not.
        """


class IIdentity(Interface):
    """Who a token speaks for."""

    async def verify(*, token: str) -> Credentials:
        """
        Ask what a token is good for.

        :raises InvalidToken: if for nothing.
        :raises OAuthUnavailable: if nobody knows.
        """

    async def account(*, token: str, credentials: Credentials) -> Account:
        """
        Ask for the account of a verified token.

        :raises AccountUnknown: if there no longer is one.
        :raises AuthUnavailable: if nobody knows.
        :raises UpstreamRefused: if our request is at fault.
        """

    async def invalidate_tokens(*, uid: str) -> None:
        """
        Trust no token of this user any longer without asking again.

        :raises DriverError: if other processes that trust tokens cannot be told.
        """

    servers = Attribute("The names of the servers behind this, of which there may be none.")

    async def check(*, server: str) -> bool:
        """
        See whether a server answers, at the cost of one small request.

        :param server: one of ``servers``.
        """


class IRevocations(Interface):
    """What all web processes know of users whose tokens are no longer trusted."""

    async def revoke(*, uid: str) -> None:
        """
        Let no process trust a token that this user has until now.

        :raises CacheError: if the others cannot be told.
        """

    async def revoked_at(*, uid: str) -> float | None:
        """
        When this was last done, in seconds since the epoch; None if it is not known to have
        been.

        :raises CacheError: if nobody can tell.
        """


class IProfileStore(Interface):
    """
    Profiles and avatars in a database.

    Each method is one transaction.  Each change of an avatar's status is one
    ``UPDATE … WHERE id AND status IN (…)``: whoever comes second changes nothing.
    Times are seconds since the epoch.
    """

    async def accept(*, avatar_id: str, uid: str, now: float) -> Avatar:
        """Add a row in ``processing``.  When this returns the upload is accepted."""

    async def avatar(*, avatar_id: str) -> Avatar | None:
        """One row."""

    async def latest(*, uid: str) -> Avatar | None:
        """The newest upload of a user that is not being deleted."""

    async def profile(*, uid: str) -> Profile:
        """What is known of a user; of an unknown one, an empty profile."""

    async def job_sent(*, avatar_id: str, status: Status, now: float) -> None:
        """Note that the job of a row in this status is on the queue."""

    async def ready(
        *,
        avatar_id: str,
        variants: Mapping[str, Variant],
        now: float,
        placeholder: str | None = None,
    ) -> Avatar | None:
        """
        A row that was processing or failed is now ready.

        If no newer upload of the user was ever selected, it becomes the selected
        one and the one before it ``replaced``; otherwise it is itself ``replaced``.
        A replaced row owes a delete job.  Repeating this changes nothing.

        :returns: the row as it is now; None if there is none.
        """

    async def failed(*, avatar_id: str, reason: str, now: float) -> Avatar | None:
        """
        A row that was processing has failed.

        :returns: the row as it is now; None if there is none.
        """

    async def delete(*, avatar_id: str, uid: str, now: float) -> bool:
        """
        Start to delete an avatar of this user; it then owes a delete job.

        :returns: whether there was one.
        """

    async def delete_current(*, uid: str, now: float) -> Sequence[str]:
        """
        Start to delete the user's selected avatar and whatever is in processing.

        :returns: their ids; none if there was nothing.
        """

    async def delete_user(*, uid: str, now: float) -> Sequence[str]:
        """
        Remove the profile and start to delete every avatar of a user.

        :returns: the ids of the avatars.
        """

    async def deleted(*, avatar_id: str, now: float) -> Avatar | None:
        """
        The objects of an avatar are gone: a row in ``deleting`` goes too, one in
        ``replaced`` stays for a while to tell its owner so.

        :returns: the row as it is now, None if there is none.
        """

    async def redelete(*, avatar_id: str) -> bool:
        """
        A row that is being deleted owes its delete job once more.

        :returns: whether there is such a row.
        """

    async def set_display_name(*, uid: str, name: str | None, now: float) -> None:
        """Set or, with None, unset the display name of a user."""

    async def unsent(*, before: float, limit: int) -> Sequence[Avatar]:
        """The oldest rows that have owed a job since before this time."""

    async def stuck(*, sent_before: float, limit: int) -> Sequence[Avatar]:
        """The oldest rows whose job was sent before this time and has no result."""

    async def expire(*, processing_before: float, now: float, limit: int) -> Sequence[str]:
        """
        Rows that have been processing since before this time turn ``failed`` with
        reason ``lost``.

        :returns: their ids.
        """

    async def purge(*, failed_before: float, replaced_before: float, now: float, limit: int) -> int:
        """
        Forget what no one asks for any more: failed rows that old start to be
        deleted; replaced rows that old whose objects are gone are removed.

        :returns: how many rows changed.
        """

    async def counts() -> Mapping[Status, int]:
        """How many rows are processing or being deleted, by status."""

    async def leadership(*, owner: str, now: float, seconds: float) -> bool:
        """
        Take or keep the lease on the repair loops for so many seconds.

        :param owner: this process.
        :returns: whether this process has it.
        """

    async def resign(*, owner: str) -> None:
        """Give the lease back, if this process has it."""

    async def check() -> None:
        """
        See whether the database answers.

        :raises StoreError: if not.
        """


@dataclass(frozen=True)
class CacheLookup:
    """
    The result of a cache lookup.

    :ivar value: the cached text, or None.
    :ivar generation: the user's generation at the time of the lookup, an opaque text.
    """

    value: str | None
    generation: str


class IProfileCache(Interface):
    """
    A cache of profiles: one text for each user and variant, with a time to live.

    Each user has a generation, which every change of the profile advances.  A text is served
    and stored only in the generation of its lookup, so that a profile that was read before a
    change is never served to a lookup after it.
    """

    async def lookup(*, uid: str, variant: str, changed_at: int = 0) -> CacheLookup:
        """
        Look up a text, in one round trip.

        :param changed_at: the latest change of the account that the caller knows of.  If it
            is later than in every lookup of this generation, the generation is advanced
            first.
        """

    async def store(*, uid: str, variant: str, value: str, generation: str) -> None:
        """
        Cache a text, unless the user's generation was advanced since its lookup.

        :param generation: of the lookup that preceded reading the profile.
        """

    async def invalidate(*, uid: str) -> None:
        """Advance the generation of a user: no text cached so far is served again."""

    async def check() -> None:
        """
        Check that the cache responds.

        :raises CacheError: if it does not.
        """


#: The length of a rate window, in seconds.
WINDOW_SECONDS: Final = 3600


class IRateWindows(Interface):
    """Sliding windows of one hour, which count hits by key."""

    async def hit(*, limits: Mapping[str, int]) -> float:
        """
        Count one hit for each of several keys, or for none if one of them is at its limit.

        :param limits: the hits that a window may have, by key; each at least 1.
        :returns: 0 if the hit was counted, otherwise the seconds until it can be.
        :raises CacheError: if hits cannot be counted.
        """


class ICruncher(Interface):
    """Turns bytes that nobody trusts into three clean pictures."""

    slots = Attribute("How many images it works on at one time.")

    async def crunch(*, original: IO[bytes]) -> Crunched:
        """
        Decode an original once and encode it in each size.

        Cancelling it kills the child.

        :param original: an open file, at whatever position; it stays open.
        :returns: the pictures in each format that is wanted.
        :raises ImageRefused: if the image is at fault.
        :raises ChildFailed: if the child died, or went over a limit.
        :raises CruncherUnavailable: if there could be no child; try again later.
        """

"""
The ports: interfaces that the drivers implement.

Each interface has at least two implementations and one contract in ``tests/contracts/`` that
all of them pass.  All arguments are passed by keyword.  A dependency that fails, or does not
respond in time, raises the :class:`fxprofile.model.errors.DriverError` of its interface and
no other error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from zope.interface import Attribute, Interface

from fxprofile.deferreds.bodies import Body as Body

if TYPE_CHECKING:
    # The images role has neither messages nor profiles.
    from fxprofile.model.avatars import Avatar, Crunched, QuarantineEntry, Status, Variant
    from fxprofile.model.messages import Message, QueueDepth
    from fxprofile.model.profiles import Account, Credentials, Profile


@dataclass(frozen=True)
class ObjectInfo:
    """
    The metadata of an object in a bucket.

    :ivar etag: an opaque tag without quotes, which differs for different bytes.
    :ivar modified: seconds since the epoch.
    """

    key: str
    length: int
    etag: str
    modified: float


@dataclass(frozen=True)
class NewObject:
    """An object in memory that is to be put into a bucket."""

    key: str
    data: bytes
    content_type: str


class IBucket(Interface):
    """A flat object store; :mod:`fxprofile.model.keys` makes the keys."""

    async def put(*, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Store an object, and replace an existing one with the same key.

        The object becomes visible when it is complete and durable.  If this fails or is
        cancelled, nothing is stored.  The caller closes the body.

        :param length: of the body, in bytes.
        :raises BodyMismatch: if the body is longer or shorter.
        :raises StorageError: if the object could not be stored.
        :raises Exception: any error of the body.
        """

    async def put_all(*, objects: Sequence[NewObject]) -> None:
        """
        Store objects at the same time, each as :meth:`put` does.

        When this returns or raises, none is being stored any more.  If it fails or is cancelled,
        any of them may be stored; repeating it stores the same.

        :raises StorageError: if one of them could not be stored.
        """

    async def get(*, key: str, as_file: bool = False) -> tuple[ObjectInfo, Body]:
        """
        Open an object.  The caller closes the body.

        :param as_file: whether the caller needs a file: if the object is one, the body is a
            :class:`fxprofile.deferreds.bodies.FileBody`.
        :raises ObjectNotFound: if there is none.
        :raises StorageError: if it cannot be read; the body may raise it, too.
        """

    async def head(*, key: str) -> ObjectInfo:
        """
        Return the metadata of an object.

        :raises ObjectNotFound: if there is none.
        """

    async def delete(*, keys: Sequence[str]) -> None:
        """Remove objects.  Missing objects are no error."""

    async def list(*, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        """
        Return at most ``limit`` objects whose keys begin with a prefix, sorted by key.

        :param after: only keys that sort after this one; empty for all.
        """

    async def check() -> None:
        """
        Check with one small request that the bucket is usable.

        :raises StorageError: if it is not.
        """


#: The maximum number of messages of one receive, as in Amazon SQS.
BATCH: Final = 10

#: Handles one message.  It raises :class:`fxprofile.model.errors.MalformedMessage` if the
#: message is invalid, and any other error if it has to be retried.
Handler = Callable[["Message"], Awaitable[None]]


class IQueue(Interface):
    """
    A queue with visibility timeouts, like Amazon SQS: at-least-once delivery, in no
    guaranteed order.  A message that was received ``max_receives`` times and not deleted
    moves to the dead-letter queue, which is another queue.
    """

    name = Attribute("The name of this queue in logs and metrics.")

    async def send(*, body: str) -> None:
        """Send a message.  When this returns, the message is durable."""

    async def receive(
        *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        """
        Receive messages, and make them invisible for a time.

        Cancelling this loses no message.

        :param max_messages: 1 to :data:`BATCH`.
        :param wait: seconds to wait for the first message, 0 to 20.
        :param visibility: seconds for which the messages are invisible, instead of the
            queue's visibility timeout.
        :returns: an empty sequence if no message arrived in time.
        """

    async def extend(*, message: Message, visibility: float) -> None:
        """
        Make a received message invisible for this many seconds from now; 0 releases it.

        :raises LeaseLost: if its receipt handle has expired.
        """

    async def release(*, message: Message) -> None:
        """
        Return a received message that was not tried: it is visible at once.

        The receive does not count, except on SQS, where it cannot be undone.

        :raises LeaseLost: if its receipt handle has expired.
        """

    async def delete(*, message: Message) -> None:
        """
        Acknowledge a received message: remove it.

        If the receipt handle has expired, this has no effect.
        """

    async def depth() -> QueueDepth:
        """Return the approximate number of messages."""

    async def check() -> None:
        """
        Check with one small request that the queue is usable.

        :raises QueueError: if it is not.
        """


class IIdentity(Interface):
    """The identity servers: verify tokens and look up accounts."""

    async def verify(*, token: str) -> Credentials:
        """
        Verify a token.

        :raises InvalidToken: if the token is rejected.
        :raises OAuthUnavailable: if the OAuth server is unreachable.
        """

    async def account(*, token: str, credentials: Credentials) -> Account:
        """
        Look up the account of a verified token.

        :raises AccountUnknown: if the account does not exist.
        :raises AuthUnavailable: if the auth server is unreachable.
        :raises UpstreamRefused: if the request of this service is at fault.
        """

    async def invalidate_tokens(*, uid: str) -> None:
        """
        Verify all tokens of this user again before they are trusted.

        :raises DriverError: if other processes that cache tokens cannot be notified.
        """

    servers = Attribute("The names of the servers that this uses; may be empty.")

    async def check(*, server: str) -> bool:
        """
        Return whether a server responds to one small request.

        :param server: one of ``servers``.
        """


class IRevocations(Interface):
    """Token revocations, shared by all web processes."""

    async def revoke(*, uid: str) -> None:
        """
        Revoke all tokens that this user has now, in all processes.

        :raises CacheError: if the other processes cannot be notified.
        """

    async def revoked_at(*, uid: str) -> float | None:
        """
        Return the time of the last revocation, in seconds since the epoch, or None.

        :raises CacheError: if it is unknown.
        """


@dataclass(frozen=True)
class Accepted:
    """
    An accepted upload.

    :ivar superseded: the ids of the uploads that it has superseded.
    """

    avatar: Avatar
    superseded: Sequence[str] = ()


@dataclass(frozen=True)
class Applied:
    """
    A ready result that was applied.

    :ivar avatar: the row after this, or None if there is none.
    :ivar replaced: the previously selected avatar, if this result has replaced it.
    """

    avatar: Avatar | None
    replaced: Avatar | None = None


@dataclass(frozen=True)
class Backlog:
    """
    The rows of all users that wait for a job or its result.

    :ivar rows: how many they are.
    :ivar since: the time since which the oldest of them, without the skipped ones, has waited;
        None if there are no others.
    :ivar accepted: the sequence number of the newest upload.
    """

    rows: int
    since: float | None
    accepted: int


@dataclass(frozen=True)
class CurrentAvatar:
    """
    What the API shows of a user's avatar.

    :ivar profile: an empty one if the user is unknown.
    :ivar placeholder: of the selected avatar, if it has one.
    :ivar pending: the id of the newest upload that is not being deleted, if it is processing.
    """

    profile: Profile
    placeholder: str | None = None
    pending: str | None = None


class IProfileStore(Interface):
    """
    Profiles and avatars in a database.

    Each method is one transaction.  Each change of an avatar's status is one
    ``UPDATE … WHERE id AND status IN (…)``, so that of two concurrent changes one has no
    effect.  Times are seconds since the epoch.
    """

    async def accept(
        *,
        avatar_id: str,
        uid: str,
        now: float,
        keep: int | None = None,
        source_digest: str | None = None,
    ) -> Accepted:
        """
        Add a row in ``processing``.  When this returns, the upload is accepted.

        :param keep: how many of the user's newest uploads, this one included, may stay in
            ``processing``.  Older ones are superseded: they become ``replaced``, and their
            crunch job counts as their delete job.
        :param source_digest: SHA-256 of the upload's bytes.
        :raises AccountUnknown: if the account was deleted.
        :raises Quarantined: if these bytes are quarantined.
        """

    async def avatar(*, avatar_id: str) -> Avatar | None:
        """Return the row of an avatar."""

    async def profile(*, uid: str) -> Profile:
        """Return the profile of a user; an empty one if the user is unknown."""

    async def current_avatar(*, uid: str) -> CurrentAvatar:
        """Return all that the API shows of a user's avatar, from one statement."""

    async def job_sent(*, avatar_id: str, status: Status, now: float, lazy: bool = False) -> None:
        """
        Record that the job of a row was sent, if it still has this status.

        :param lazy: whether this may wait up to a second, to be recorded together with other
            changes.
        """

    async def ready(
        *,
        avatar_id: str,
        variants: Mapping[str, Variant],
        now: float,
        placeholder: str | None = None,
        pixels_digest: str | None = None,
    ) -> Applied:
        """
        Apply a ready result to a row that is processing or failed.

        If no newer upload of the user was ever selected, the row becomes ``ready`` and
        selected, and the previously selected one ``replaced``; otherwise the row itself
        becomes ``replaced``.  A replaced row has a pending delete job.  This is idempotent.

        :param pixels_digest: of the picture's pixels, as its child reported it.
        :raises Quarantined: if the picture is quarantined, by its bytes or its pixels, or the
            row has failed for that reason; nothing has changed.
        """

    async def failed(*, avatar_id: str, reason: str, now: float) -> Avatar | None:
        """
        Make a row that is processing ``failed``.

        With the reason ``quarantined`` it then has a pending delete job, and so has one that had
        failed before: a worker has put its pictures.

        :returns: the row after this, or None if there is none.
        """

    async def quarantine(*, entry: QuarantineEntry, now: float) -> int:
        """
        Refuse a picture from now on; avatars that show it already are left as they are.

        :returns: the number of the entry.
        """

    async def lift(*, number: int, by: str, reason: str, now: float) -> bool:
        """
        End a quarantine; its entry stays as a record.

        :returns: whether there was such an entry that was in force.
        """

    async def quarantined(*, since: float, limit: int) -> Sequence[Avatar]:
        """
        Return avatars whose pictures are, or may become, public although entries that were made
        since a time quarantine them: by a digest, or because the entry names them.
        """

    async def delete(*, avatar_id: str, uid: str, now: float) -> bool:
        """
        Start to delete an avatar of this user: it then has a pending delete job.

        :returns: whether there was such an avatar.
        """

    async def delete_current(*, uid: str, now: float) -> Sequence[str]:
        """
        Start to delete the user's selected avatar and every upload in ``processing``.

        :returns: their ids.
        """

    async def delete_user(*, uid: str, now: float) -> Sequence[str]:
        """
        Remove the profile and start to delete every avatar of a user.

        A tombstone remains until :meth:`purge` removes it: until then every write of data of
        this user is refused, also one that began before the deletion.

        :returns: the ids of the avatars.
        """

    async def deleted(*, avatar_id: str, now: float) -> Avatar | None:
        """
        Record that the objects of an avatar were removed: remove a row in ``deleting``, and
        clear the pending job of one in ``replaced`` or ``failed``, which stays for its owner.

        :returns: the row after this, or None if there is none.
        """

    async def redelete(*, avatar_id: str) -> bool:
        """
        Make the delete job of a row that is deleting, replaced or quarantined pending again.

        :returns: whether there is such a row.
        """

    async def set_display_name(*, uid: str, name: str | None, now: float) -> None:
        """
        Set or, with None, unset the display name of a user.

        If a letter is stored for the monogram it becomes the initial of the new name, or is
        removed if there is none.

        :raises AccountUnknown: if the account was deleted.
        """

    async def set_monogram(*, profile: Profile, letter: str | None) -> bool:
        """
        Store the letter of a user's monogram, or remove it.  This is no change of the profile.

        :param profile: the profile that the letter was chosen for.  If it has changed since,
            or the account was deleted, this has no effect.
        :returns: whether the letter was stored.
        """

    async def forget_jobs() -> None:
        """Make the jobs of all rows that wait for one pending again: no message has survived."""

    async def unsent(*, before: float, limit: int, newest_first: bool = False) -> Sequence[Avatar]:
        """
        Return the oldest rows, or the newest, whose job has been pending since before this time.
        """

    async def stuck(*, sent_before: float, limit: int) -> Sequence[Avatar]:
        """
        Return the oldest rows whose job was sent before this time and has no result.

        Rows that became pending later, such as an upload that was superseded since its job was
        sent, are left for later.
        """

    async def expire(*, processing_before: float, now: float, limit: int) -> Sequence[str]:
        """
        Fail rows that have been processing since before this time, with reason ``lost``.

        :returns: their ids.
        """

    async def purge(
        *,
        failed_before: float,
        replaced_before: float,
        removed_before: float,
        now: float,
        limit: int,
    ) -> int:
        """
        Start to delete old failed rows, remove old replaced rows without objects, and remove
        the old tombstones of users without avatars.

        :returns: how many rows changed.
        """

    async def counts() -> Mapping[Status, int]:
        """Return how many rows are processing or being deleted, by status."""

    async def pending_since(*, times: Sequence[float]) -> Sequence[int]:
        """Return how many rows have waited for a job or its result since each of these times."""

    async def backlog(*, limit: int, skip: int) -> Backlog:
        """
        Return how much there is to do, in a time that does not depend on the number of users.

        :param limit: the number of rows up to which they are counted.
        :param skip: how many of the oldest rows to skip.
        """

    async def pending_of(*, uid: str) -> int:
        """Return how many rows of a user wait for a job or its result."""

    async def leadership(*, owner: str, now: float, seconds: float) -> bool:
        """
        Acquire or renew the lease on the repair loops, for this many seconds.

        :param owner: the name of this process.
        :returns: whether this process has the lease.
        """

    async def resign(*, owner: str) -> None:
        """Release the lease, if this process has it."""

    async def check() -> float:
        """
        Check that the database takes writes.

        :returns: its time, in seconds since the epoch.
        :raises StoreError: if it does not.
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
    """Sliding windows, which count hits by key."""

    async def hit(*, limits: Mapping[str, int], seconds: int = WINDOW_SECONDS) -> float:
        """
        Count one hit for each of several keys, or for none if one of them is at its limit.

        :param limits: the hits that a window may have, by key; each at least 1.
        :param seconds: the length of the windows, always the same for a key, and at most an hour.
        :returns: 0 if the hit was counted, otherwise the seconds until it can be.
        :raises CacheError: if hits cannot be counted.
        """


class ICruncher(Interface):
    """Turns an untrusted original into pictures that are safe to publish."""

    slots = Attribute("How many images are crunched at the same time.")

    async def crunch(*, original: IO[bytes]) -> Crunched:
        """
        Decode an original once and encode it in each size.

        Cancelling this kills the child process.

        :param original: an open file, at any position; it stays open.
        :returns: the pictures in each configured format.
        :raises ImageRefused: if the image is at fault.
        :raises ChildFailed: if the child died or exceeded a limit.
        :raises CruncherUnavailable: if no image can be crunched now; the image was not tried.
        """

    async def when_ready() -> object:
        """
        Wait until images can be crunched.

        :raises CruncherUnavailable: if that will never be.
        """

    async def check() -> None:
        """
        Check that images can be crunched.

        :raises CruncherUnavailable: if they cannot.
        """

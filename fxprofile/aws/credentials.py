"""
The keys that requests are signed with.

botocore finds them, in the order that all AWS tools have: environment, web identity,
profile, process, container, instance metadata, with roles assumed on the way.  It blocks,
and so it does this in a thread; keys that end are renewed before they do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import BotoCoreError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.aio import Threads, detached
from fxprofile.aws.errors import NoCredentials
from fxprofile.aws.flight import Flight

#: Keys that end in less than so many seconds are not used without a try to renew them.
LAST_MOMENT: Final = 60

#: Seconds between two tries to renew keys that are still good, and between two searches
#: because AWS refused what was found.
PACE: Final = 10.0

_log = Logger()


@dataclass(frozen=True)
class Keys:
    """One access key.  Its representation shows no secret."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def find_in_thread() -> Any:
    """
    Go through the chain.

    :returns: botocore's credentials, or None.
    """
    # The module brings half of botocore with it: a process is to listen before that.
    import botocore.session

    return botocore.session.Session().get_credentials()


class CredentialChain:
    """
    Knows the present keys.

    :param find: gives botocore's credentials, in a thread.
    """

    def __init__(
        self,
        threads: Threads,
        clock: IReactorTime,
        find: Callable[[], Any] = find_in_thread,
    ) -> None:
        self._threads = threads
        self._clock = clock
        self._find = find
        self._source: Any = None
        self._keys: Keys | None = None
        self._flight: Flight[None] = Flight()
        self._distrusted = float("-inf")
        self._renewed = float("-inf")

    async def keys(self) -> Keys:
        """
        The keys to sign with now.

        :raises NoCredentials: if there are none.
        """
        if self._keys is None or self._ends_within(LAST_MOMENT):
            await self._flight.join(self._fetch)
        elif self._ends_within(None) and not self._flight.under_way and self._due(self._renewed):
            # They are good for a while: nobody needs to wait.
            detached(self._renew_early())
        if self._keys is None:
            raise NoCredentials("no AWS credentials")
        return self._keys

    def distrust(self, keys: Keys) -> None:
        """Search again from the beginning, because AWS refuses these keys."""
        if keys == self._keys and self._due(self._distrusted):
            self._distrusted = self._clock.seconds()
            self._source = self._keys = None

    def _due(self, last: float) -> bool:
        return self._clock.seconds() - last >= PACE

    def _ends_within(self, seconds: float | None) -> bool:
        """Whether the keys end so soon; with None, so soon that botocore would renew them."""
        needed = getattr(self._source, "refresh_needed", None)
        return needed is not None and bool(needed(seconds))

    async def _renew_early(self) -> None:
        try:
            await self._flight.join(self._fetch)
        except NoCredentials as error:
            _log.warn("Cannot renew keys that are about to end: {error}", error=error)

    async def _fetch(self) -> None:
        self._renewed = self._clock.seconds()
        try:
            source, found = await self._threads.run(self._fetch_in_thread, self._source)
        except (BotoCoreError, OSError, RuntimeError, ValueError, KeyError) as error:
            # The text of anything else might quote what was read.
            text = str(error) if isinstance(error, BotoCoreError) else type(error).__name__
            raise NoCredentials(f"no AWS credentials: {text:.300}") from None
        if found is None:
            raise NoCredentials("no AWS credentials: the standard chain finds none")
        self._source = source
        self._keys = Keys(found.access_key, found.secret_key, found.token)

    def _fetch_in_thread(self, source: Any) -> tuple[Any, Any]:
        if source is None:
            source = self._find()
        return source, source.get_frozen_credentials() if source is not None else None

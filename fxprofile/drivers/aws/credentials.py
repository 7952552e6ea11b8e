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

from botocore.exceptions import BotoCoreError, ClientError
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.errors import NoCredentials
from fxprofile.drivers.aws.flight import Flight

#: Keys that end in less than so many seconds are not used without a try to renew them.
LAST_MOMENT: Final = 60

#: Seconds that a call waits for keys.  The search goes on for those that come later.
PATIENCE: Final = 15.0

#: Seconds that botocore waits for a connection to STS, and for its answer, and how often it
#: asks: it would otherwise wait for five minutes.
STS_TIMEOUT: Final = 5
STS_TRIES: Final = 2

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


def find_in_thread(region: str) -> Any:
    """
    Go through the chain.

    :param region: whose STS is asked for roles.
    :returns: botocore's credentials, or None.
    """
    # The module brings half of botocore with it: a process is to listen before that.
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    session.set_config_variable("region", region)
    session.set_default_client_config(
        Config(
            connect_timeout=STS_TIMEOUT,
            read_timeout=STS_TIMEOUT,
            retries={"total_max_attempts": STS_TRIES},
        )
    )
    return session.get_credentials()


class CredentialChain:
    """
    Knows the present keys.

    :param region: of the services that the keys are for.
    :param find: gives botocore's credentials for a region, in a thread.
    """

    def __init__(
        self,
        threads: Threads,
        clock: IReactorTime,
        region: str,
        find: Callable[[str], Any] = find_in_thread,
    ) -> None:
        self._threads = threads
        self._clock = clock
        self._region = region
        self._find = find
        self._source: Any = None
        self._keys: Keys | None = None
        self._flight: Flight[None] = Flight()
        self._distrusted = float("-inf")
        self._renewed = float("-inf")

    async def keys(self) -> Keys:
        """
        The keys to sign with now.

        :raises NoCredentials: if there are none, or none for a while.
        """
        if self._keys is None or self._ends_within(LAST_MOMENT):
            try:
                await self._flight.join(self._fetch).addTimeout(PATIENCE, self._clock)
            except WaitTimeout:
                raise NoCredentials(
                    f"no AWS credentials: the source that is set up here has not answered "
                    f"for {PATIENCE:g} s"
                ) from None
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
        except Exception as error:
            # Sources are many, and so are the ways in which they fail.
            raise NoCredentials(f"no AWS credentials: {_describe(error):.300}") from None
        if found is None:
            raise NoCredentials(
                "no AWS credentials: the standard chain finds none; it looks for "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, and the role of the "
                "task or the instance"
            )
        self._source = source
        self._keys = Keys(found.access_key, found.secret_key, found.token)

    def _fetch_in_thread(self, source: Any) -> tuple[Any, Any]:
        if source is None:
            source = self._find(self._region)
        return source, source.get_frozen_credentials() if source is not None else None


def _describe(error: Exception) -> str:
    """What went wrong, in one line that quotes nothing of what was read."""
    if isinstance(error, (BotoCoreError, ClientError)):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return type(error).__name__

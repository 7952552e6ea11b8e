"""
Which failures are worth another try, how many tries there are, and when the next one is.

The words are those of AWS's standard mode:
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from fxprofile.drivers.aws.errors import AwsError, AwsUnreachable

#: AWS is busy with others, or with us.
THROTTLING: Final = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottledException",
        "RequestThrottled",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "SlowDown",
        "PriorRequestNotComplete",
        "EC2ThrottledException",
    }
)
#: AWS has a fault that may be gone by now.
TRANSIENT: Final = frozenset(
    {"RequestTimeout", "RequestTimeoutException", "InternalError", "InternalFailure"}
)
TRANSIENT_STATUSES: Final = frozenset({500, 502, 503, 504})

#: The keys are too old, or are no longer those in their file.
STALE_KEYS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)


def is_throttling(error: AwsError) -> bool:
    """Whether AWS says that it is asked too much."""
    return error.code in THROTTLING or error.status == 429


def is_retryable(error: AwsError) -> bool:
    """Whether the same request may succeed in a moment."""
    return (
        isinstance(error, AwsUnreachable)
        or is_throttling(error)
        or error.code in TRANSIENT
        or error.status in TRANSIENT_STATUSES
    )


class Budget:
    """
    Tokens that retries cost and successes earn: when everything fails, retries end, and
    AWS does not get several times the load when it can bear the least.

    One is shared by all calls of a process.
    """

    def __init__(self, capacity: int = 500, cost: int = 5, timeout_cost: int = 10) -> None:
        self._capacity = capacity
        self._cost = cost
        self._timeout_cost = timeout_cost
        self._tokens = capacity

    def take(self, error: AwsError) -> int | None:
        """
        Pay for a retry.

        :returns: what it cost, or None if there is too little.
        """
        cost = self._timeout_cost if isinstance(error, AwsUnreachable) else self._cost
        if self._tokens < cost:
            return None
        self._tokens -= cost
        return cost

    def succeeded(self, paid: int | None) -> None:
        """Give back what the last try cost, or earn one token if it was the first."""
        self._tokens = min(self._capacity, self._tokens + (paid or 1))


class Backoff:
    """
    How long to wait between tries: at most twice as long each time, with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    :param first: the longest wait after the first try, in seconds.
    :param first_if_throttled: the same, if AWS said that it is asked too much.
    :param most: the longest wait of all.
    :param chance: gives a number from 0 to 1.
    """

    def __init__(
        self,
        first: float = 0.1,
        first_if_throttled: float = 1.0,
        most: float = 20.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._first_if_throttled = first_if_throttled
        self._most = most
        self._chance = chance

    def delay(self, attempt: int, error: AwsError) -> float:
        """
        Seconds to wait.

        :param attempt: the number of the try that failed, from 1.
        """
        first = self._first_if_throttled if is_throttling(error) else self._first
        return float(self._chance() * min(self._most, first * 2 ** (attempt - 1)))

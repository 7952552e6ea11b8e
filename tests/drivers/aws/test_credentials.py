"""
Tests of the credential chain in :mod:`fxprofile.drivers.aws.client.signing`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError, CredentialRetrievalError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.errors import NoCredentials
from fxprofile.drivers.aws.client.signing import (
    PATIENCE,
    REFRESH_INTERVAL,
    AccessKey,
    CredentialChain,
    find_credentials,
)
from tests.drivers.aws.support import InlineThreads, set_environ


class HeldThreads:
    """Holds calls until the test runs them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def run(self, call: Any, *args: Any) -> Deferred[Any]:
        waiter: Deferred[Any] = Deferred()
        self.calls.append(lambda: waiter.callback(call(*args)))
        return waiter


class ChainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.found: list[Any] = []
        self.searches = 0

    def find(self, region: str) -> Any:
        self.assertEqual(region, "us-east-1")
        self.searches += 1
        found = self.found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def chain(self, *found: Any, threads: Any = None) -> CredentialChain:
        self.found = list(found)
        return CredentialChain(threads or InlineThreads(), self.clock, "us-east-1", self.find)

    def keys(self, chain: CredentialChain) -> AccessKey:
        return self.successResultOf(Deferred.fromCoroutine(chain.get()))

    def expiring(self, minutes: float, *renewals: Any) -> RefreshableCredentials:
        """Return credentials that expire in so many minutes, and their refreshes."""
        left = list(renewals)

        def renew() -> dict[str, str]:
            renewal = left.pop(0)
            if isinstance(renewal, Exception):
                raise renewal
            return {
                "access_key": renewal,
                "secret_key": "s",
                "token": "t",
                "expiry_time": (self.now() + timedelta(hours=6)).isoformat(),
            }

        return RefreshableCredentials(
            "first", "s", "t", self.now() + timedelta(minutes=minutes), renew, "test", self.now
        )

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_700_000_000 + self.clock.seconds(), UTC)

    def test_credentials_are_searched_once(self) -> None:
        """The chain is searched once for any number of calls."""
        chain = self.chain(Credentials("A", "s"))
        self.assertEqual([self.keys(chain).access_key for _ in range(3)], ["A"] * 3)
        self.assertEqual(self.searches, 1)

    def test_concurrent_calls_share_a_search(self) -> None:
        """Concurrent calls share one search, and cancelling one does not disturb the others."""
        threads = HeldThreads()
        chain = self.chain(Credentials("A", "s"), threads=threads)
        asking = [Deferred.fromCoroutine(chain.get()) for _ in range(3)]
        asking[1].cancel()
        self.assertEqual(len(threads.calls), 1)
        threads.calls[0]()
        self.assertEqual(self.successResultOf(asking[0]).access_key, "A")
        self.failureResultOf(asking[1])
        self.assertEqual(self.successResultOf(asking[2]).access_key, "A")

    def test_expiring_keys_are_refreshed_in_the_background(self) -> None:
        """A key that expires soon is used while it is being refreshed."""
        threads = HeldThreads()
        chain = self.chain(self.expiring(60, "second"), threads=threads)
        asking = Deferred.fromCoroutine(chain.get())
        threads.calls.pop()()
        self.assertEqual(self.successResultOf(asking).access_key, "first")
        self.clock.advance(50 * 60)
        self.assertEqual(self.keys(chain).access_key, "first")
        self.assertEqual(self.keys(chain).access_key, "first")
        self.assertEqual(len(threads.calls), 1)
        threads.calls.pop()()
        self.assertEqual(self.keys(chain).access_key, "second")

    def test_an_expired_key_is_refreshed_first(self) -> None:
        """A key that is about to expire is not used before a refresh."""
        threads = HeldThreads()
        chain = self.chain(self.expiring(60, "second"), threads=threads)
        asking = Deferred.fromCoroutine(chain.get())
        threads.calls.pop()()
        self.successResultOf(asking)
        self.clock.advance(59.5 * 60)
        asking = Deferred.fromCoroutine(chain.get())
        self.assertNoResult(asking)
        threads.calls.pop()()
        self.assertEqual(self.successResultOf(asking).access_key, "second")

    def test_a_failed_refresh_keeps_a_valid_key(self) -> None:
        """
        A key that cannot be refreshed is used while it is valid, with a pause between
        refreshes.
        """
        fault = CredentialRetrievalError(provider="test", error_msg="down")
        chain = self.chain(self.expiring(60, fault, fault, "second"))
        self.keys(chain)
        self.clock.advance(52 * 60)
        for _ in range(3):
            self.assertEqual(self.keys(chain).access_key, "first")
        self.clock.advance(REFRESH_INTERVAL)
        for _ in range(3):
            self.assertEqual(self.keys(chain).access_key, "first")
        self.clock.advance(REFRESH_INTERVAL)
        self.keys(chain)
        self.assertEqual(self.keys(chain).access_key, "second")

    def test_missing_credentials_are_an_error(self) -> None:
        """A search without result raises NoCredentials, and the next call searches again."""
        chain = self.chain(None, Credentials("A", "s"))
        failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
        self.assertIn("found none", str(failure.value))
        self.assertEqual(self.keys(chain).access_key, "A")

    def test_errors_of_a_source_do_not_quote_it(self) -> None:
        """Any error of a source raises NoCredentials, without the content that was read."""
        chain = self.chain(ValueError("aws_secret_access_key = hunter2"), OSError("x"))
        for _ in range(2):
            failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
            self.assertNotIn("hunter2", str(failure.value))

    def test_errors_name_their_cause(self) -> None:
        """The error names a missing file, or the refusal of STS, in one line."""
        missing = FileNotFoundError(2, "No such file or directory", "/run/token")
        members = {"Error": {"Code": "AccessDenied", "Message": "not\nyou"}}
        chain = self.chain(missing, ClientError(members, "AssumeRole"))
        for wanted in ("/run/token: No such file", "AccessDenied"):
            failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
            self.assertIn(wanted, str(failure.value))
            self.assertNotIn("\n", str(failure.value))

    def test_a_silent_source_does_not_block_calls(self) -> None:
        """A call fails if the search takes too long, and a later call gets its result."""
        threads = HeldThreads()
        chain = self.chain(Credentials("A", "s"), threads=threads)
        asking = [Deferred.fromCoroutine(chain.get()) for _ in range(2)]
        self.clock.advance(PATIENCE)
        for waiter in asking:
            failure = self.failureResultOf(waiter, NoCredentials)
            self.assertIn("did not respond within", str(failure.value))
        later = Deferred.fromCoroutine(chain.get())
        self.assertEqual(len(threads.calls), 1)
        threads.calls[0]()
        self.assertEqual(self.successResultOf(later).access_key, "A")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_invalidated_keys_are_searched_again(self) -> None:
        """A refused key causes a new search, with a pause between searches."""
        chain = self.chain(Credentials("A", "s"), Credentials("B", "s"), Credentials("C", "s"))
        first = self.keys(chain)
        chain.invalidate(first)
        second = self.keys(chain)
        self.assertEqual(second.access_key, "B")
        chain.invalidate(first)
        chain.invalidate(second)
        self.assertEqual(self.keys(chain).access_key, "B")
        self.clock.advance(REFRESH_INTERVAL)
        chain.invalidate(second)
        self.assertEqual(self.keys(chain).access_key, "C")

    def test_the_standard_chain_is_searched(self) -> None:
        """The chain finds credentials in the environment and in a profile."""
        environ = {
            "AWS_ACCESS_KEY_ID": "AKIAENV",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_SESSION_TOKEN": "t",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in environ.items():
            set_environ(self, name, value)
        found = find_credentials("us-east-1").get_frozen_credentials()
        self.assertEqual((found.access_key, found.token), ("AKIAENV", "t"))
        file = Path(self.mktemp())
        file.write_text("[one]\naws_access_key_id=AKIAFILE\naws_secret_access_key=s\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            set_environ(self, name, None)
        set_environ(self, "AWS_SHARED_CREDENTIALS_FILE", str(file))
        set_environ(self, "AWS_PROFILE", "one")
        found = find_credentials("us-east-1").get_frozen_credentials()
        self.assertEqual(found.access_key, "AKIAFILE")

"""
Tests of :mod:`fxprofile.drivers.aws.client.signing`.
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
from tests.drivers.aws.support import InlineThreads


class HeldThreads:
    """Holds calls until the test lets them run."""

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

    def ending(self, minutes: float, *renewals: Any) -> RefreshableCredentials:
        """Credentials that end so soon, and what they are renewed with."""
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

    def test_found_once(self) -> None:
        """The chain is searched once, however often keys are asked for."""
        chain = self.chain(Credentials("A", "s"))
        self.assertEqual([self.keys(chain).access_key for _ in range(3)], ["A"] * 3)
        self.assertEqual(self.searches, 1)

    def test_found_once_by_many(self) -> None:
        """It is searched once for all who ask while it is being searched."""
        threads = HeldThreads()
        chain = self.chain(Credentials("A", "s"), threads=threads)
        asking = [Deferred.fromCoroutine(chain.get()) for _ in range(3)]
        asking[1].cancel()
        self.assertEqual(len(threads.calls), 1)
        threads.calls[0]()
        self.assertEqual(self.successResultOf(asking[0]).access_key, "A")
        self.failureResultOf(asking[1])
        self.assertEqual(self.successResultOf(asking[2]).access_key, "A")

    def test_renewed_early(self) -> None:
        """AccessKey that end soon are renewed while they are still used."""
        threads = HeldThreads()
        chain = self.chain(self.ending(60, "second"), threads=threads)
        asking = Deferred.fromCoroutine(chain.get())
        threads.calls.pop()()
        self.assertEqual(self.successResultOf(asking).access_key, "first")
        self.clock.advance(50 * 60)
        self.assertEqual(self.keys(chain).access_key, "first")
        self.assertEqual(self.keys(chain).access_key, "first")
        self.assertEqual(len(threads.calls), 1)
        threads.calls.pop()()
        self.assertEqual(self.keys(chain).access_key, "second")

    def test_renewed_late(self) -> None:
        """AccessKey that are about to end are not used without renewing them."""
        threads = HeldThreads()
        chain = self.chain(self.ending(60, "second"), threads=threads)
        asking = Deferred.fromCoroutine(chain.get())
        threads.calls.pop()()
        self.successResultOf(asking)
        self.clock.advance(59.5 * 60)
        asking = Deferred.fromCoroutine(chain.get())
        self.assertNoResult(asking)
        threads.calls.pop()()
        self.assertEqual(self.successResultOf(asking).access_key, "second")

    def test_early_renewal_fails(self) -> None:
        """If keys cannot be renewed they are used as long as they are good; tries have a pace."""
        fault = CredentialRetrievalError(provider="test", error_msg="down")
        chain = self.chain(self.ending(60, fault, fault, "second"))
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

    def test_not_found(self) -> None:
        """If nothing is found that is the error, and the next call searches again."""
        chain = self.chain(None, Credentials("A", "s"))
        failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
        self.assertIn("found none", str(failure.value))
        self.assertEqual(self.keys(chain).access_key, "A")

    def test_fails(self) -> None:
        """Whatever goes wrong in the search is one kind of error, without what was read."""
        chain = self.chain(ValueError("aws_secret_access_key = hunter2"), OSError("x"))
        for _ in range(2):
            failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
            self.assertNotIn("hunter2", str(failure.value))

    def test_named(self) -> None:
        """A file that is missing, and a refusal of STS, are named in one line."""
        missing = FileNotFoundError(2, "No such file or directory", "/run/token")
        members = {"Error": {"Code": "AccessDenied", "Message": "not\nyou"}}
        chain = self.chain(missing, ClientError(members, "AssumeRole"))
        for wanted in ("/run/token: No such file", "AccessDenied"):
            failure = self.failureResultOf(Deferred.fromCoroutine(chain.get()), NoCredentials)
            self.assertIn(wanted, str(failure.value))
            self.assertNotIn("\n", str(failure.value))

    def test_hangs(self) -> None:
        """A source that does not answer keeps nobody for long, and serves those who come later."""
        threads = HeldThreads()
        chain = self.chain(Credentials("A", "s"), threads=threads)
        asking = [Deferred.fromCoroutine(chain.get()) for _ in range(2)]
        self.clock.advance(PATIENCE)
        for waiter in asking:
            failure = self.failureResultOf(waiter, NoCredentials)
            self.assertIn("did not answer within", str(failure.value))
        later = Deferred.fromCoroutine(chain.get())
        self.assertEqual(len(threads.calls), 1)
        threads.calls[0]()
        self.assertEqual(self.successResultOf(later).access_key, "A")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_distrusted(self) -> None:
        """AccessKey that AWS refuses are searched for again, but not all the time."""
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

    def test_standard_chain(self) -> None:
        """The real chain reads the environment, and a profile's file."""
        environ = {
            "AWS_ACCESS_KEY_ID": "AKIAENV",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_SESSION_TOKEN": "t",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in environ.items():
            self.patch_environ(name, value)
        found = find_credentials("us-east-1").get_frozen_credentials()
        self.assertEqual((found.access_key, found.token), ("AKIAENV", "t"))
        file = Path(self.mktemp())
        file.write_text("[one]\naws_access_key_id=AKIAFILE\naws_secret_access_key=s\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            self.patch_environ(name, None)
        self.patch_environ("AWS_SHARED_CREDENTIALS_FILE", str(file))
        self.patch_environ("AWS_PROFILE", "one")
        found = find_credentials("us-east-1").get_frozen_credentials()
        self.assertEqual(found.access_key, "AKIAFILE")

    def patch_environ(self, name: str, value: str | None) -> None:
        import os

        old = os.environ.get(name)

        def put(value: str | None) -> None:
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

        put(value)
        self.addCleanup(put, old)

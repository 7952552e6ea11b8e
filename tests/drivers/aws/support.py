"""
Helpers for tests of the AWS client and of its drivers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any
from unittest import TestCase

from botocore.credentials import Credentials
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from fxprofile.deferreds.backoff import Backoff
from fxprofile.drivers.aws.client.client import AwsClient
from fxprofile.drivers.aws.client.signing import CredentialChain
from fxprofile.http_client.agent import HttpAgent
from tests.support.servers.moto import ACCESS_KEY, SECRET_KEY

# botocore logs a lot at level debug.
logging.getLogger("botocore").setLevel(logging.WARNING)


#: Delays between attempts that do not slow tests down.
FAST = Backoff(first=0.01, cap=0.05)


def set_environ(case: TestCase, name: str, value: str | None) -> None:
    """Set an environment variable until the test ends, or remove it if the value is None."""
    old = os.environ.get(name)

    def put(value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    put(value)
    case.addCleanup(put, old)


class InlineThreads:
    """Runs each call at once, in the caller's thread."""

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return maybeDeferred(call, *args, **kwargs)


def chain(clock: Any = None, find: Callable[[], Any] | None = None) -> CredentialChain:
    """Return a credential chain that finds one fixed key."""
    find = find or (lambda: Credentials(ACCESS_KEY, SECRET_KEY))
    return CredentialChain(InlineThreads(), clock or Clock(), "us-east-1", lambda _: find())


def make_client(
    reactor: Any,
    *,
    credentials: CredentialChain | None = None,
    agent: HttpAgent | None = None,
    backoff: Backoff = FAST,
    throttled_backoff: Backoff = FAST,
) -> AwsClient:
    """Return a client that retries almost at once."""
    client = AwsClient(reactor, InlineThreads(), "us-east-1")
    client.credentials = credentials or chain(reactor)
    client.backoff = backoff
    client.throttled_backoff = throttled_backoff
    if agent is not None:
        client.agent = agent
    return client

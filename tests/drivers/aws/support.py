"""
What tests of the AWS client and of its drivers have in common.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from botocore.credentials import Credentials
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from fxprofile.drivers.aws.client import AwsClient
from fxprofile.drivers.aws.credentials import CredentialChain
from fxprofile.drivers.aws.retries import Backoff
from tests.support.servers.moto import ACCESS_KEY, SECRET_KEY

# botocore says a lot at level debug.
logging.getLogger("botocore").setLevel(logging.WARNING)


class InlineThreads:
    """Runs each call at once."""

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return maybeDeferred(call, *args, **kwargs)


def chain(clock: Any = None, find: Callable[[], Any] | None = None) -> CredentialChain:
    """A chain that finds one fixed key."""
    find = find or (lambda: Credentials(ACCESS_KEY, SECRET_KEY))
    return CredentialChain(InlineThreads(), clock or Clock(), "us-east-1", lambda _: find())


def make_client(reactor: Any, **options: Any) -> AwsClient:
    """A client that hardly waits between its tries."""
    options.setdefault("credentials", chain(reactor))
    options.setdefault("backoff", Backoff(first=0.01, first_if_throttled=0.01))
    return AwsClient(reactor, InlineThreads(), "us-east-1", **options)

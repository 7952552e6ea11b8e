"""Helpers for tests of the filesystem bucket."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.filesystem.bucket import FilesystemBucket

NOBODY = 65534


class InlineThreads:
    """Runs each call at once, in the caller's thread."""

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return maybeDeferred(call, *args, **kwargs)


class SteppedThreads:
    """
    Runs each call at the test's command, even if its caller has been cancelled, as a thread
    does.

    :ivar waiting: the calls to run.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        waiter: Deferred[Any] = Deferred()

        def step() -> None:
            maybeDeferred(call, *args, **kwargs).addBoth(waiter.callback)

        self.waiting.append(step)
        return waiter

    def step(self) -> bool:
        if self.waiting:
            self.waiting.pop(0)()
            return True
        return False


def descriptors() -> list[str]:
    """Return the targets of the open file descriptors of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
    return sorted(found)


def files_below(path: Path) -> list[str]:
    """Return the paths of all files below a folder, including hidden ones."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir())


class FolderCase(SynchronousTestCase):
    """A bucket whose calls run at once, on a clock that the test advances."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "bucket"
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.bucket = self.make_bucket()

    def make_bucket(self, **options: Any) -> FilesystemBucket:
        return FilesystemBucket(InlineThreads(), self.path, self.clock, **options)

    def result(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def failure(self, kind: type[Exception], work: Any) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(work), kind)
        self.assertIs(failure.type, kind)
        return str(failure.value)

    def put(self, key: str, data: bytes = b"x") -> Any:
        return self.bucket.put(
            key=key, body=BytesBody(data), length=len(data), content_type="image/png"
        )

    def keys(self) -> list[str]:
        return [i.key for i in self.result(self.bucket.list(prefix="", after="", limit=1000))]

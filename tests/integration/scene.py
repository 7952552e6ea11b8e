"""A folder, and the daemons that share it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.integration import photos
from tests.integration.client import PATIENCE, Client
from tests.support.daemon import Daemon, Ports


class Scene:
    """
    A service: a folder, and the daemons that share it.

    :param case: the test case, whose clean-up removes the service.
    :ivar settings: and ``environ``: additional settings and environment of every daemon.
    :ivar preloaded: whether daemons are forked from a process that has their modules loaded.
    :ivar daemons: the daemons that were started.
    """

    def __init__(self, case: TestCase) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fxprofile-scene-"))
        self.ports = Ports()
        self.settings: Mapping[str, object] = {}
        self.environ: Mapping[str, str] = {}
        self.preloaded = True
        self.daemons: list[Daemon] = []
        self._case = case
        case.addCleanup(rmtree, self.directory, ignore_errors=True)

    async def daemon(
        self, role: str = "combined", *, crash_at: str | None = None, **settings: object
    ) -> Daemon:
        """Start a daemon; two underscores in the name of a setting stand for its dot."""
        named = {name.replace("__", "."): value for name, value in settings.items()}
        daemon = Daemon(
            self.directory,
            role=role,
            settings={**self.settings, **named},
            environ=self.environ,
            ports=self.ports,
            crash_at=crash_at,
            preloaded=self.preloaded,
        )
        self.daemons.append(daemon)
        self._case.addCleanup(daemon.kill)
        await daemon.start()
        return daemon

    def files(self) -> list[str]:
        """Return the paths of all files in the buckets."""
        root = self.directory / "var" / "buckets"
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; fail with the text `what` otherwise."""
        deadline = reactor.seconds() + PATIENCE
        while not condition():
            if reactor.seconds() > deadline:
                raise AssertionError(f"{what}: {self.files()}")
            await deferLater(reactor, 0.1)

    async def assert_sizes(self, client: Client, url: str, *sizes: tuple[int, int]) -> None:
        """Assert that the three pictures exist: the default one, the small and the large."""
        for suffix, size in zip(("", "_small", "_large"), sizes, strict=True):
            status, data = await client.picture(url + suffix)
            self._case.assertEqual(status, 200, suffix)
            self._case.assertEqual(photos.opened(data).size, size)


class PipelineCase(TestCase):
    """A test with a scene of its own."""

    timeout = 9 * PATIENCE

    def setUp(self) -> None:
        self.scene = Scene(self)

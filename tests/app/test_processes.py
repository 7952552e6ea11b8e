"""Tests of several processes of one role: their supervisor, and real processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.app.processes import Inherited
from fxprofile.app.services import Services
from fxprofile.model.errors import ConfigError
from fxprofile.model.ports import IProfileCache
from fxprofile.settings.capacity import processors
from fxprofile.settings.load import load
from fxprofile.settings.model import Role
from fxprofile.telemetry.metrics import Metrics, merge
from tests.integration.photos import jpeg
from tests.support.daemon import Daemon, until

HEADERS = {"Authorization": "Bearer alice"}
DEFAULT_AVATAR = "/a/00000000000000000000000000000000"


class Load:
    """
    Clients that send requests on kept connections, until they are stopped.

    :ivar requests: how many had the expected status.
    :ivar errors: what went wrong.
    """

    def __init__(self, port: int, path: str, status: int, clients: int = 4) -> None:
        self._where = ("127.0.0.1", port)
        self._path = path
        self._status = status
        self._stopped = threading.Event()
        self.requests = 0
        self.errors: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the requests in flight; this blocks."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=30)
        while not self._stopped.is_set():
            try:
                connection.request("GET", self._path, headers=HEADERS)
                response = connection.getresponse()
                response.read()
                if response.status != self._status:
                    self.errors[f"status {response.status}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.errors[repr(error)] += 1
                connection.close()
            self.requests += 1
            # Not so many that the processes cannot start beside them.
            self._stopped.wait(0.01)
            if number % 2:
                # Half of the clients open a connection for each request.
                connection.close()
        connection.close()


class HalfUpload:
    """An upload of which only the first half has been sent."""

    def __init__(self, port: int) -> None:
        self._body = jpeg()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.putrequest("POST", "/v1/avatar/upload")
        for name, value in HEADERS.items():
            self._connection.putheader(name, value)
        self._connection.putheader("Content-Type", "image/jpeg")
        self._connection.putheader("Content-Length", str(len(self._body)))
        self._connection.endheaders(self._body[:1000])

    def finish(self) -> int:
        """Send the rest, and return the status of the response; this blocks."""
        self._connection.send(self._body[1000:])
        with self._connection.getresponse() as response:
            response.read()
            return response.status


class _Case(TestCase):
    """A daemon whose role has several processes."""

    timeout = 300

    async def daemon(self, role: str, text: str = "", **settings: object) -> Daemon:
        """Start a daemon with two processes, and with a text as settings file."""
        settings = {f"{role}.processes": 2, "limits.writes_per_minute": 0, **settings}
        settings[f"{role}.max_connections_per_address"] = 0
        daemon = Daemon(role=role, settings=settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        daemon.config = daemon.directory / "fxprofile.toml"
        daemon.config.write_text(text)
        await daemon.start()
        return daemon

    async def get(self, url: str) -> str:
        """Return the body of a response, whatever its status."""

        def read() -> str:
            try:
                with urllib.request.urlopen(url, timeout=20) as response:
                    return str(response.read().decode())
            except urllib.error.HTTPError as error:
                return error.read().decode()

        return await deferToThread(read)


class ReloadTests(_Case):
    """Processes that are replaced under load."""

    async def test_reload_drops_no_request(self) -> None:
        """While SIGHUP replaces each web process, every request has its response."""
        await self.reload_under_load("web", "/v1/uid")

    async def test_reload_of_images_drops_no_request(self) -> None:
        """While SIGHUP replaces each images process, every request has its response."""
        await self.reload_under_load("images", DEFAULT_AVATAR)

    async def reload_under_load(self, role: str, path: str) -> None:
        """Replace the processes of a role while clients send requests."""
        daemon = await self.daemon(role)
        before = set(children(daemon.pid))
        load = Load(daemon.ports.web if role == "web" else daemon.ports.images, path, 200)
        try:
            count = load.requests
            daemon.send_signal(signal.SIGHUP)
            await daemon.until_output("processes have been replaced")
            self.assertGreater(load.requests, count)
        finally:
            await deferToThread(load.stop)
        self.assertEqual(load.errors, Counter(), role)
        pids = children(daemon.pid)
        self.assertEqual((len(before), len(pids)), (2, 2))
        self.assertFalse(before & set(pids))
        self.assertEqual(await daemon.stop(), -signal.SIGTERM)
        self.assertFalse(running(pids))

    async def test_reloads_at_once(self) -> None:
        """Several SIGHUPs at once drop no request, and end in two processes with the last file."""
        daemon = await self.daemon("images")
        before = set(children(daemon.pid))
        assert daemon.config is not None
        load = Load(daemon.ports.images, DEFAULT_AVATAR, 200)
        try:
            for age in range(1, 5):
                daemon.config.write_text(f"images.max_age = {age}\n")
                daemon.send_signal(signal.SIGHUP)
                # The first one has begun.
                await until(lambda: "Settings reloaded" in daemon.output)
            await daemon.until_output("processes have been replaced", 2)
        finally:
            await deferToThread(load.stop)
        self.assertEqual(load.errors, Counter())
        self.assertEqual(daemon.output.count("processes have been replaced"), 2)
        pids = set(children(daemon.pid))
        self.assertEqual((len(pids), before & pids), (2, set()))
        ages = {await self.max_age(daemon) for _ in range(20)}
        self.assertEqual(ages, {"public, max-age=4"})

    async def max_age(self, daemon: Daemon) -> str:
        """Return the Cache-Control of a picture."""
        url = daemon.images_url + DEFAULT_AVATAR
        with await deferToThread(urllib.request.urlopen, url, timeout=20) as response:
            return str(response.headers["Cache-Control"])

    async def test_reload_while_a_process_is_started_again(self) -> None:
        """A process that has ended and is to be replaced is started once."""
        daemon = await self.daemon("images")
        os.kill(children(daemon.pid)[0], signal.SIGKILL)
        await daemon.until_output("Process ended (process 1: signal 9)")
        daemon.send_signal(signal.SIGHUP)
        await daemon.until_output("All 2 processes have been replaced")
        # A third one would have been started by now.
        await deferToThread(time.sleep, 2)
        self.assertEqual(len(children(daemon.pid)), 2)

    async def test_stop_during_a_reload(self) -> None:
        """SIGTERM during a reload starts no process, and every request has its response."""
        from twisted.internet import reactor

        clock: Any = reactor
        daemon = await self.daemon("web", **{"uploads.wait": 0})
        uploads = [HalfUpload(daemon.ports.web) for _ in range(12)]
        await until(lambda: children(daemon.pid) and daemon.output.count("is ready") >= 2)
        daemon.send_signal(signal.SIGHUP)
        # The first process that is replaced waits for its uploads.
        await daemon.until_output("Received SIGTERM")
        pids = set(children(daemon.pid))
        daemon.send_signal(signal.SIGTERM)
        await daemon.until_output("Received SIGTERM", 2)
        daemon.send_signal(signal.SIGHUP)
        *most, last = uploads
        for upload in most:
            self.assertEqual(await deferToThread(upload.finish), 201)
        # Only one of the processes has to wait any longer.
        await until(lambda: len(running(list(pids))) == 1)
        self.assertEqual(len(children(daemon.pid)), 1)
        self.assertEqual(await deferToThread(last.finish), 201)
        while await daemon.runs():
            self.assertLessEqual(set(children(daemon.pid)), pids)
            await deferLater(clock, 0.02)
        self.assertFalse(running(list(pids)))
        self.assertNotIn("Processes not replaced", daemon.output)
        self.assertNotIn("Traceback", daemon.output)

    async def test_invalid_settings_replace_no_process(self) -> None:
        """SIGHUP with an invalid file replaces no process, and one line names the key."""
        daemon = await self.daemon("images")
        before = children(daemon.pid)
        assert daemon.config is not None
        daemon.config.write_text("images.max_age = -1\n")
        daemon.send_signal(signal.SIGHUP)
        await daemon.until_output("nothing has changed: images.max_age: ")
        daemon.config.write_text('images.max_age = 7\nadmin.listen = "tcp:1"\n')
        self.assertEqual(children(daemon.pid), before)
        daemon.send_signal(signal.SIGUSR1)
        daemon.send_signal(signal.SIGHUP)
        await daemon.until_output("All 2 processes have been replaced")
        self.assertIn("was not opened again", daemon.output)
        self.assertEqual(await self.max_age(daemon), "public, max-age=7")


class SupervisorTests(_Case):
    """What the supervisor does for its processes."""

    async def test_processes_share_a_socket_and_an_admin_listener(self) -> None:
        """Each process accepts connections; the admin listener has the figures of all."""
        daemon = await self.daemon("web")
        self.assertEqual(len(children(daemon.pid)), 2)
        load = Load(daemon.ports.web, "/v1/uid", 200, clients=16)
        accepted: dict[str, float] = {}

        def has_both() -> bool:
            return len(accepted) == 2 and all(accepted.values())

        try:
            while not has_both():
                metrics = await self.get(f"{daemon.admin_url}/metrics")
                pattern = (
                    r'^fxprofile_http_requests_total\{listener="api",method="GET",'
                    r'process="(\d)",route="/v1/uid",status="200"\} (\S+)$'
                )
                accepted = {n: float(v) for n, v in re.findall(pattern, metrics, re.MULTILINE)}
        finally:
            await deferToThread(load.stop)
        self.assertEqual(load.errors, Counter())
        metrics = await self.get(f"{daemon.admin_url}/metrics")
        accepted = {n: float(v) for n, v in re.findall(pattern, metrics, re.MULTILINE)}
        self.assertEqual(sum(accepted.values()), load.requests)
        for name in ("1", "2", "supervisor"):
            self.assertIn(f'process_resident_memory_bytes{{process="{name}"}} ', metrics)
        leaders = re.findall(r'fxprofile_repair_leader\{process="\d"\} (\S+)', metrics)
        self.assertEqual(sum(map(float, leaders)), 1, "one process repairs")
        checks = json.loads(await self.get(f"{daemon.admin_url}/__heartbeat__"))["checks"]
        self.assertEqual((checks["process 1"], checks["process 2"]), ("ok", "ok"))
        self.assertEqual(checks["database"], "ok")

    async def test_ended_process_is_started_again(self) -> None:
        """A process that ended is started again, and the other serves meanwhile."""
        await self.replaced(signal.SIGKILL)

    async def test_hung_process_is_killed_and_started_again(self) -> None:
        """A process that does not respond is killed and replaced; the other serves meanwhile."""
        daemon = await self.replaced(signal.SIGSTOP)
        self.assertIn("Process 1 does not respond: ", daemon.output)

    async def replaced(self, number: signal.Signals) -> Daemon:
        """Send the first process a signal, and wait until there is another one."""
        daemon = await self.daemon("images")
        first, second = children(daemon.pid)
        os.kill(first, number)
        url = daemon.images_url + DEFAULT_AVATAR
        for _ in range(10):
            with await deferToThread(urllib.request.urlopen, url) as response:
                self.assertEqual(response.status, 200)
        await daemon.until_output("Process ended (process 1: signal 9)")
        await until(lambda: len(children(daemon.pid)) == 2)
        self.assertIn(second, children(daemon.pid))
        self.assertNotIn(first, children(daemon.pid))
        return daemon

    async def test_no_process_survives_its_supervisor(self) -> None:
        """If the supervisor is killed, its processes end."""
        daemon = await self.daemon("images")
        pids = children(daemon.pid)
        await daemon.kill()
        await until(lambda: not running(pids))

    async def test_start_that_fails(self) -> None:
        """If a process cannot start, the supervisor ends with status 1 and one last line."""
        with self.assertRaises(RuntimeError) as caught:
            await self.daemon("web", **{"database.url": "sqlite:////proc/nowhere/profile.db"})
        lines = str(caught.exception).splitlines()
        self.assertIn("database.url: ", "\n".join(lines))
        self.assertIn("fxprofile: process ", lines[-1])
        self.assertIn("ended with status 1", lines[-1])


class SettingsTests(SynchronousTestCase):
    """The settings of several processes."""

    def problem(self, *overrides: str, role: Role = Role.WEB) -> str:
        """Return why settings cannot be used."""
        return str(self.assertRaises(ConfigError, load, overrides=overrides, environ={}, role=role))

    def test_auto_is_the_number_of_processors(self) -> None:
        """``auto`` is the number of processors that this process may use."""
        settings = load(overrides=["web.processes=auto"], environ={}, role=Role.WEB)
        self.assertEqual(settings.processes(Role.WEB), processors())
        self.assertEqual(settings.processes(Role.IMAGES), 1)

    def test_combined_role_is_one_process(self) -> None:
        """The combined role refuses several processes in one line that names the key."""
        line = self.problem("images.processes=2", role=Role.COMBINED)
        self.assertTrue(line.startswith("images.processes: must be 1 in the combined role"), line)

    def test_sockets_that_cannot_be_shared(self) -> None:
        """A socket with TLS or of a file is refused for several processes."""
        for listen in ("ssl:443", "unix:/run/x", "systemd:domain=UNIX:index=0"):
            line = self.problem("images.processes=2", f"images.listen={listen}", role=Role.IMAGES)
            self.assertIn("images.listen: must be a tcp, tcp6 or systemd endpoint", line)

    def test_profiles_are_cached_in_redis_only(self) -> None:
        """Several processes without a Redis cache no profile, and check-config says so."""
        for count, expected in ((1, "cached"), (2, None)):
            settings = load(overrides=[f"web.processes={count}"], environ={}, role=Role.WEB)
            cache = Services(settings, Clock()).cache
            found = self.successResultOf(Deferred.fromCoroutine(store_and_look_up(cache)))
            self.assertEqual(found, expected)
            doubts = [d for d in settings.doubts(Role.WEB) if d.startswith("cache.driver: ")]
            self.assertEqual(len(doubts), count - 1)

    def test_inherited_socket_as_text(self) -> None:
        """What a process inherits is written and read as the same text."""
        inherited = Inherited(3, 2, 77)
        self.assertEqual(Inherited.parse(str(inherited)), inherited)
        self.assertRaises(ValueError, Inherited.parse, "3:2")


class MergeTests(SynchronousTestCase):
    """Metrics of several processes as one text."""

    def test_each_process_keeps_its_figures(self) -> None:
        """Figures have the label of their process, and each metric is described once."""
        texts = {}
        for number in ("1", "2"):
            metrics = Metrics()
            metrics.uploads.labels("accepted").inc(int(number))
            metrics.leader.set(int(number == "2"))
            metrics.crunch_seconds.observe(0.3)
            texts[number] = metrics.render()[0].decode()
        text = merge(texts)[0].decode()
        for number in ("1", "2"):
            uploads = f'fxprofile_uploads_total{{outcome="accepted",process="{number}"}} {number}.0'
            self.assertIn(uploads, text)
            self.assertIn(f'fxprofile_crunch_seconds_count{{process="{number}"}} 1.0', text)
        self.assertIn('fxprofile_repair_leader{process="1"} 0.0', text)
        self.assertIn('fxprofile_repair_leader{process="2"} 1.0', text)
        described = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        self.assertEqual(len(described), len(set(described)))
        opened, kind = merge(texts, "application/openmetrics-text")
        self.assertIn("openmetrics", kind)
        self.assertTrue(opened.endswith(b"# EOF\n"))


def running(pids: list[int]) -> list[int]:
    """Return the ids of those processes that exist."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def store_and_look_up(cache: IProfileCache) -> str | None:
    """Cache a text, and return what is found then."""
    looked_up = await cache.lookup(uid="u", variant="v")
    await cache.store(uid="u", variant="v", value="cached", generation=looked_up.generation)
    found: str | None = (await cache.lookup(uid="u", variant="v")).value
    return found


def children(pid: int | None) -> list[int]:
    """Return the ids of the children of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in found.split()]

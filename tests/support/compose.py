"""
Starts what ``etc/containers/compose.yaml`` describes as plain processes of this machine.

    python -m tests.support.compose

Containers cannot run everywhere that tests do.  Commands, environment, dependencies and health
checks are those of the file; the entry point is that of the Containerfile; nginx and Prometheus
have the shipped files.  What differs: every port is a free one, every host is this one, and a
program takes the place of each image.  Grafana is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

from tests.corpus.jpeg import plain
from tests.support.servers.local import PASSWORD, die_with_parent, free_port
from tests.support.servers.mariadb import MariadbServer, missing
from tests.support.servers.nginx import PROGRAM

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "etc/containers"

#: Seconds that a service may take to be healthy, to end, or to be scraped.
PATIENCE = 120

#: The services that no process takes the place of.
WITHOUT_PROCESS = {"pod", "grafana"}

#: What an operator sets in the environment of ``docker compose``.
VARIABLES = {"DATABASE_PASSWORD": PASSWORD}

_NGINX = """daemon off; master_process off; pid pid; error_log stderr;
events {}
http { access_log off; %s include conf.d/*.conf; }
"""


def compose_file() -> dict[str, Any]:
    """Return the parsed file, with variables replaced."""
    text = (FOLDER / "compose.yaml").read_text()

    def value(found: re.Match[str]) -> str:
        return VARIABLES.get(found[1], found[2])

    parsed: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", value, text))
    return parsed


def entry_point() -> list[str]:
    """Return the entry point of the Containerfile."""
    text = (FOLDER / "Containerfile").read_text()
    (found,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def missing_program() -> str | None:
    """Return the reason why the services cannot run on this machine, or None."""
    programs = {"nginx": PROGRAM}
    for name in ("prometheus", "redis-server", "redis-cli", "wget"):
        programs[name] = shutil.which(name)
    absent = [name for name, path in programs.items() if path is None]
    return missing() or (f"{absent[0]} is not installed" if absent else None)


class Topology:
    """
    The services of the file, each as a process.

    :ivar ports: the free port in place of each port of the file.
    """

    def __init__(self) -> None:
        self.services = compose_file()["services"]
        self.folder = Path(tempfile.mkdtemp(prefix="fxprofile-compose-"))
        self.mariadb = MariadbServer()
        numbers = (1111, 1112, 1113, 1114, 1115, 5000, 6379, 8080, 9090)
        self.ports = {number: free_port() for number in numbers} | {3306: self.mariadb.port}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("nginx", "prometheus"):
            shutil.copytree(ROOT / "etc" / name, self.folder / name)
            for path in (self.folder / name).iterdir():
                path.write_text(self.here(path.read_text()))
        (self.folder / "conf.d").mkdir()
        bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = " ".join(f"{name}_temp_path {self.folder}/{name};" for name in bodies)
        (self.folder / "nginx.conf").write_text(_NGINX % folders)

    def here(self, text: str) -> str:
        """Return a text of the file with the hosts, ports and folders of this machine."""
        text = re.sub(r"\b(mariadb|redis|aws|pod)(?=:\d)", "127.0.0.1", text)
        text = re.sub(r"\b0\.0\.0\.0\b", "127.0.0.1", text)
        numbers = "|".join(map(str, self.ports))
        text = re.sub(
            rf"(?<![\d.])({numbers})(?![\d.])", lambda m: str(self.ports[int(m[1])]), text
        )
        nginx = f"exec {PROGRAM} -p {self.folder} -c nginx.conf -e stderr"
        for there, path in {
            "/etc/fxprofile/nginx": self.folder / "nginx",
            "/etc/nginx/conf.d": self.folder / "conf.d",
            "/etc/prometheus": self.folder / "prometheus",
            "=/prometheus": f"={self.folder}/metrics",
            "listen-address=:": "listen-address=127.0.0.1:",
            "/opt/fxprofile/healthcheck.py": FOLDER / "healthcheck.py",
            "exec nginx -g 'daemon off;'": nginx,
        }.items():
            text = text.replace(there, str(path))
        return text

    def command(self, name: str) -> list[str]:
        """Return the command of a service."""
        service = self.services[name]
        first = service.get("entrypoint")
        if first is None and service["image"].startswith("fxprofile:"):
            first = entry_point()
        elif first is None and "prometheus" in service["image"]:
            first = ["prometheus"]
        words = [self.here(word) for word in (*(first or []), *service.get("command", []))]
        if name == "redis":
            words += ["--port", str(self.ports[6379]), "--bind", "127.0.0.1"]
        return self._program(words)

    def _program(self, words: Sequence[str]) -> list[str]:
        scripts = Path(sysconfig.get_path("scripts"))
        if words[0] == "fxprofile-admin":
            return [sys.executable, "-m", "fxprofile.admin.main", *words[1:]]
        if words[0] in ("twistd", "moto_server"):
            return [sys.executable, str(scripts / words[0]), *words[1:]]
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        return list(words)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("FXPROFILE_", "AWS_"))}
        environ["PYTHONPATH"] = str(ROOT)
        found = self.services[name].get("environment", {})
        environ.update({key: self.here(value) for key, value in found.items()})
        admin = {"web": 1114, "worker": 1113, "images": 1115}
        if name in admin:
            listeners = {"WEB": 1111, "IMAGES": 1112, "ADMIN": admin[name]}
            for key, port in listeners.items():
                listener = f"tcp:{self.ports[port]}:interface=127.0.0.1"
                environ[f"FXPROFILE_{key}__LISTEN"] = listener
        return environ

    def order(self) -> Iterator[str]:
        """Yield the services, each after those that it depends on."""
        done: set[str] = set()
        left = [name for name in self.services if name != "grafana"]
        while left:
            ready = next(n for n in left if set(self.services[n].get("depends_on", ())) <= done)
            left.remove(ready)
            done.add(ready)
            if ready not in WITHOUT_PROCESS:
                yield ready

    def up(self, report: Callable[[str], object]) -> None:
        """
        Start every service as soon as its dependencies are as the file requires.

        :param report: is called with a line about each.
        """
        for name in self.order():
            for other, how in self.services[name].get("depends_on", {}).items():
                if other not in WITHOUT_PROCESS:
                    self._wait(other, how["condition"])
            report(f"starting {name}")
            if name == "mariadb":
                self.mariadb.start()
                self.mariadb.create(self.services[name]["environment"]["MARIADB_DATABASE"])
            else:
                self._start(name)
        for name in self.order():
            if name != "setup":
                self._wait(name, "service_healthy")
                report(f"{name} is healthy")

    def _start(self, name: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as output:
            self._processes[name] = subprocess.Popen(
                self.command(name),
                cwd=self.folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _wait(self, name: str, condition: str) -> None:
        """Wait for a condition of ``depends_on``."""
        if name == "mariadb":
            return  # It was ready when it had started.
        process = self._processes[name]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = process.poll()
            if condition == "service_completed_successfully" and status == 0:
                return
            if status is not None:
                break
            if condition == "service_healthy" and self._is_healthy(name):
                return
            time.sleep(0.2)
        log = (self.folder / f"{name}.log").read_text(errors="replace")
        raise RuntimeError(f"{name}: not {condition}; status {process.poll()}:\n{log}")

    def _is_healthy(self, name: str) -> bool:
        words = [self.here(word) for word in self.services[name]["healthcheck"]["test"][1:]]
        if name == "redis":
            words[1:1] = ["-p", str(self.ports[6379])]
        done = subprocess.run(
            self._program(words), cwd=self.folder, capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def ask(
        self, method: str, host: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes]:
        """Send a request to nginx, and return the status and the body of the response."""
        connection = HTTPConnection("127.0.0.1", self.ports[8080], timeout=60)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": f"{host}:{self.ports[8080]}", **fields})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def targets(self) -> Mapping[str, str]:
        """Return the health of each role as Prometheus knows it."""
        connection = HTTPConnection("127.0.0.1", self.ports[9090], timeout=60)
        connection.request("GET", "/api/v1/targets")
        found = json.loads(connection.getresponse().read())["data"]["activeTargets"]
        connection.close()
        return {target["labels"]["role"]: target["health"] for target in found}

    def until_scraped(self) -> Mapping[str, str]:
        """Return the health of each role once all are up, or it has taken too long."""
        deadline = time.monotonic() + PATIENCE
        while set((found := self.targets()).values()) != {"up"} and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def down(self) -> None:
        """Stop everything, the last one first, and remove its files."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.mariadb.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def try_it(topology: Topology, report: Callable[[str], object]) -> None:
    """
    Start everything, upload a picture through nginx, fetch it, and look at the metrics.

    :raises AssertionError: if something is not as it has to be.
    """
    topology.up(report)
    status, page = topology.ask("GET", "profile.localhost", "/", Accept="text/html")
    assert (status, page[:15].lower()) == (200, b"<!doctype html>"), page
    status, content = topology.ask(
        "POST",
        "profile.localhost",
        "/v1/avatar/upload",
        plain(),
        Authorization="Bearer alice",
        Content_Type="image/jpeg",
        Prefer="wait=30",
    )
    avatar = json.loads(content)
    assert (status, avatar["status"]) == (201, "ready"), content
    report(f"uploaded: {avatar['url']}")
    origin = f"http://images.localhost:{topology.ports[8080]}"
    assert avatar["url"] == f"{origin}/a/{avatar['id']}", avatar
    for suffix in ("", "_small", "_large"):
        path = f"/a/{avatar['id']}{suffix}"
        status, content = topology.ask("GET", "images.localhost", path)
        assert (status, content[:4]) == (200, b"\x89PNG"), (status, path)
    found = topology.until_scraped()
    assert found == dict.fromkeys(("web", "worker", "images"), "up"), found
    report("Prometheus scrapes web, worker and images")


def main() -> None:
    """Try it, and print what happens."""
    if reason := missing_program():
        raise SystemExit(reason)
    topology = Topology()
    try:
        try_it(topology, print)
    finally:
        topology.down()
    print(
        "All is well. Grafana was not started; its files are checked by tests/test_containers.py."
    )


if __name__ == "__main__":
    main()

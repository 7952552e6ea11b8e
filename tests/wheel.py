"""
Tries a wheel alone: it installs it into a new environment, and starts the service there.

    python -m tests.wheel dist/fxprofile-1.0.0-py3-none-any.whl
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tests.support.servers.local import free_port

README = Path(__file__).parents[1] / "README.md"

_VERSION_MEMBERS = {"source", "version", "commit", "build"}

#: Nothing listens there; the service starts without its cache.
_REDIS = "cache.url=redis://127.0.0.1:1/0"

#: Seconds that the daemon may take to be ready.
PATIENCE = 60


def main(wheel: str) -> None:
    """
    Try a wheel.

    :raises SystemExit: with what was expected and the output, if something is wrong.
    """
    version = Path(wheel).name.split("-")[1]
    with tempfile.TemporaryDirectory(prefix="fxprofile-wheel-") as folder:
        venv.create(folder, with_pip=True)
        scripts = Path(folder, "bin")
        _run(folder, scripts / "python", "-m", "pip", "install", "--quiet", Path(wheel).resolve())
        # As docs/operations.md says: the first run, by the user who installs, fills the cache.
        printed = _run(folder, scripts / "twistd", "fxprofile", "--version")
        _expect(printed, f"fxprofile {version}\n", printed.endswith(f"fxprofile {version}\n"))
        printed = _run(folder, scripts / "fxprofile-admin", "--version")
        _expect(printed, version, version in printed)
        site = next(Path(folder).glob("lib/python*/site-packages/twisted/plugins"))
        _expect(str(site), "dropin.cache", (site / "dropin.cache").exists())
        _start(folder, scripts, "is ready: ")
        for setting, line in {
            "storage.driver=s3": "storage.driver: needs the package botocore; "
            "pip install 'fxprofile[s3]'",
            "database.url=mysql+pymysql://h/d": "database.url: needs the package pymysql; "
            "pip install 'fxprofile[mysql]'",
        }.items():
            _start(folder, scripts, line, setting)
        _expect_version_file(folder)
        _try_extras(folder, scripts, wheel)


def _expect_version_file(folder: str) -> None:
    (file,) = Path(folder).glob("lib/python*/site-packages/fxprofile/version.json")
    found = json.loads(file.read_text())
    _expect(str(found), "source, version, commit and build", set(found) == _VERSION_MEMBERS)


def _try_extras(folder: str, scripts: Path, wheel: str) -> None:
    """Install the extras as README.md does, and start with drivers that need them."""
    extras = re.findall(r"pip install 'fxprofile(\[\S+\])'", README.read_text())
    _expect(str(extras), "one command in README.md", len(extras) == 1)
    path = f"{Path(wheel).resolve()}{extras[0]}"
    _run(folder, scripts / "python", "-m", "pip", "install", "--quiet", path)
    _start(folder, scripts, "is ready: ", "storage.driver=s3", "cache.driver=redis", _REDIS)


def _run(folder: str, *command: object) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    _expect(done.stdout, "status 0", done.returncode == 0)
    return done.stdout


def _start(folder: str, scripts: Path, expected: str, *settings: str) -> None:
    """Start the service on its defaults, until it prints something or ends."""
    listeners = (
        f"{name}.listen=tcp:{free_port()}:interface=127.0.0.1"
        for name in ("web", "images", "admin")
    )
    log = Path(folder, "log")
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                *(scripts / "twistd", "-n", "fxprofile"),
                *(f"--set={setting}" for setting in (*listeners, *settings)),
            ],
            cwd=folder,
            stdout=output,
            stderr=output,
        )
        deadline = time.monotonic() + PATIENCE
        while daemon.poll() is None and expected not in log.read_text():
            _expect(log.read_text(), expected, time.monotonic() < deadline)
            time.sleep(0.1)
        daemon.terminate()
        daemon.wait(PATIENCE)
    printed = log.read_text()
    _expect(printed, expected, expected in printed)
    _expect(printed, "no traceback and no warning", "Traceback" not in printed)
    _expect(printed, "a usable plugin cache", "plugin cache" not in printed)


def _expect(printed: str, expected: str, holds: bool) -> None:
    if not holds:
        raise SystemExit(f"{printed}\nExpected: {expected}")


if __name__ == "__main__":
    main(sys.argv[1])

"""The test matrix, for CI and for anyone: ``nox --list``, ``nox -s tests-3.13 -- tests.web``."""

from __future__ import annotations

import re
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

(LOWEST,) = re.findall(r'"Twisted\[tls\]>=([\d.]+)', Path("setup.py").read_text())

#: What pip installs for each Twisted; none for what the newest dependencies are.
TWISTED = {
    "lowest": f"Twisted[tls]=={LOWEST}.*",
    "latest": "Twisted[tls]",
    "trunk": "Twisted[tls] @ git+https://github.com/twisted/twisted@trunk",
}

nox.options.sessions = ["tests"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run "make test" on a Python, with the exact versions of the lock files."""
    # In a folder of this session, so that sessions do not disturb each other.
    venv = Path(session.create_tmp()).resolve() / "venv"
    variables = [f"PYTHON={session.bin}/python", f"VENV={venv}"]
    if session.posargs:
        variables.append("TESTS=" + " ".join(session.posargs))
    session.run("make", "test", *variables, external=True)


@nox.session
@nox.parametrize("twisted", [nox.param(name, id=name) for name in TWISTED])
def twisted(session: nox.Session, twisted: str) -> None:
    """Run the fast tests with the lowest, the latest or the next Twisted, and new dependencies."""
    session.install(".[dev]")
    session.install("--upgrade", TWISTED[twisted])
    session.run("python", "-c", "import twisted; print(twisted.version)")
    names = session.posargs or session.run("python", "-m", "tests.fast", silent=True).split()
    session.run("python", "-m", "twisted.trial", *names)

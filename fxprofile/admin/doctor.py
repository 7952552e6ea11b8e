"""``fxprofile-admin doctor``: try everything that the service needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from fxprofile import __version__
from fxprofile.admin.shared.commands import AdminCommand, Answer, role_option, with_tools
from fxprofile.admin.shared.crunching import start_pool, temporary_file
from fxprofile.admin.shared.output import duration, table
from fxprofile.admin.shared.tools import NotMigrated, Tools, where
from fxprofile.crunch.result import Report
from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.model.errors import (
    ConfigError,
    DriverError,
    ObjectNotFound,
    StorageError,
    StoreError,
)
from fxprofile.model.keys import new_id, private_key, public_key
from fxprofile.model.ports import IBucket
from fxprofile.settings.model import Role, Settings

#: Seconds that one check may take.
TIMEOUT: Final = 30.0

#: One tiny image of each type, grey or brown, 2 by 2: ``sample.png`` and so on.
SAMPLES: Final = files("fxprofile.admin") / "samples"

#: The types of the samples.
KINDS: Final = ("jpeg", "png", "gif", "webp", "avif")

#: The content of a probe object.
_PROBE: Final = b"fxprofile-admin doctor"

_PUT_ONLY: Final = frozenset({"put"})
_GET_ONLY: Final = frozenset({"get"})
_ALL: Final = frozenset({"put", "get", "delete"})

#: What each role does with the objects of each bucket.
RIGHTS: Final[dict[Role, dict[str, frozenset[str]]]] = {
    Role.WEB: {"private": _PUT_ONLY},
    Role.WORKER: {"private": frozenset({"get", "delete"}), "public": _ALL},
    Role.IMAGES: {"public": _GET_ONLY},
    Role.COMBINED: {"private": _ALL, "public": _ALL},
}

_WEB_QUEUES: Final = ("jobs", "results", "dead", "results_dead", "events", "updates")

#: The queues of each role; an optional one that is not set is skipped.
QUEUES: Final = {
    Role.WEB: _WEB_QUEUES,
    Role.WORKER: ("jobs", "results"),
    Role.IMAGES: (),
    Role.COMBINED: _WEB_QUEUES,
}

_PROVISION: Final = (
    "check {}, and the rights that etc/aws gives; fxprofile-admin provision creates what is missing"
)


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """
    One line of the report.

    :ivar text: what was found.
    :ivar advice: what to do about it, unless all is well.
    """

    name: str
    level: Level
    text: str
    advice: str | None = None


@dataclass(frozen=True)
class Check:
    """
    One thing to try.

    :ivar look: returns the findings; an error of a driver becomes a problem.
    :ivar advice: for that problem.
    """

    name: str
    look: Callable[[], Awaitable[Sequence[Finding]]]
    advice: str


@click.command(cls=AdminCommand)
@role_option(help="Check what this role needs, with no more rights than it needs.")
@with_tools
async def doctor(tools: Tools, role: Role) -> Answer:
    """
    Check that everything works that the service needs.

    Tiny images go through the real sandbox; an object is put into each bucket, read back
    and deleted; queues, database, identity servers and cache are contacted. Each line is
    ok or says what to do; the status is 1 if there is a problem. Run this as the user of
    the service, with its environment.
    """
    findings = await run_checks(tools.reactor, checks_for(tools, role))
    ok = all(finding.level is not Level.PROBLEM for finding in findings)
    rows: list[Sequence[object]] = []
    for finding in findings:
        level = finding.level.upper() if finding.level is Level.PROBLEM else finding.level
        rows.append((level, finding.name, finding.text))
        if finding.advice is not None:
            rows.append(("", "", f"-> {finding.advice}"))
    members = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
    return Answer(members, table((), rows), status=0 if ok else 1)


async def run_checks(clock: IReactorTime, checks: Iterator[Check]) -> list[Finding]:
    """Run the checks at the same time, and return all findings in the order of the checks."""
    running = [Deferred.fromCoroutine(_run(clock, check)) for check in checks]
    found = await gatherResults(running, consumeErrors=True)
    return [finding for findings in found for finding in findings]


async def _run(clock: IReactorTime, check: Check) -> Sequence[Finding]:
    async def look() -> Sequence[Finding]:
        return await check.look()

    try:
        return await Deferred.fromCoroutine(look()).addTimeout(TIMEOUT, clock)
    except DeferredTimeout:
        problem = f"no answer in {TIMEOUT:.0f} s"
    except (AwsError, ConfigError, DriverError) as error:
        problem = " ".join(str(error).split())
    return [Finding(check.name, Level.PROBLEM, problem, check.advice)]


def checks_for(tools: Tools, role: Role) -> Iterator[Check]:
    """Yield the checks that a role needs, in the order of the report."""
    serves_web = role in (Role.WEB, Role.COMBINED)
    yield Check(
        "settings", partial(_settings, tools.settings, role), "run fxprofile-admin check-config"
    )
    if role in (Role.WORKER, Role.COMBINED):
        yield Check(
            "sandbox", partial(_crunching, tools), "check crunch.sandbox, and the worker's log"
        )
    for which, rights in RIGHTS[role].items():
        advice = _PROVISION.format(f"storage.{which}_bucket")
        yield Check(f"{which} bucket", partial(_bucket, tools, which, rights), advice)
    if serves_web or (tools.settings.queue.driver == "database" and role is Role.WORKER):
        yield Check(
            "database", partial(_database, tools), "check database.url; is the server running?"
        )
    for name in QUEUES[role]:
        advice = _PROVISION.format(f"queue.{name}_url")
        yield Check(_queue_label(name), partial(_queue, tools, name), advice)
    if serves_web:
        yield Check(
            "identity",
            partial(_identity, tools),
            "check identity.oauth_url and identity.auth_url",
        )
        yield Check(
            "cache",
            partial(_cache, tools),
            "check cache.url; without it the service works, but slower",
        )


async def _settings(settings: Settings, role: Role) -> Sequence[Finding]:
    versions = (
        f"fxprofile {__version__}, Python {platform.python_version()}, Twisted {version('Twisted')}"
    )
    about = f"{versions}, for {settings.environment}"
    local = settings.single_host_drivers(role) if settings.environment == "production" else []
    if local:
        return [
            Finding(
                "settings",
                Level.WARNING,
                f"{about}, with {', '.join(local)}",
                "right for a single host; several need s3, sqs, redis and a database server",
            )
        ]
    return [Finding("settings", Level.OK, about)]


async def _crunching(tools: Tools) -> Sequence[Finding]:
    pool = await start_pool(tools)
    sandbox = _layers(tools.settings.sandbox, pool.layers() or {})
    refused = []
    for kind in KINDS:
        data = (SAMPLES / f"sample.{kind}").read_bytes()
        with await tools.files.run(temporary_file, data) as original:
            refused += _refusal(kind, await pool.examine(original=original))
    return [sandbox, _codecs(refused, pool.versions)]


def _layers(mode: str, layers: Mapping[str, bool]) -> Finding:
    missing = [name for name, in_force in layers.items() if not in_force]
    text = f"{mode}, layers: {', '.join(name for name in layers if name not in missing) or 'none'}"
    if mode == "off":
        advice = "off is for development only: leave crunch.sandbox unset"
        return Finding("sandbox", Level.WARNING, text, advice)
    if "no_new_privs" in missing or {"seccomp", "landlock"} <= set(missing):
        return Finding(
            "sandbox",
            Level.PROBLEM,
            f"{text}; neither seccomp nor Landlock is available",
            "let the container use them (its seccomp profile), or use a kernel that has them",
        )
    if missing:
        return Finding(
            "sandbox",
            Level.WARNING,
            f"{text}; unavailable: {', '.join(missing)}",
            "the other layers hold; a newer kernel, or a container that allows more, has all",
        )
    return Finding("sandbox", Level.OK, text)


def _refusal(kind: str, report: Report) -> list[str]:
    """Return what went wrong with a good image, if anything."""
    outcome = report.outcome
    if outcome.reason is None and outcome.kind == kind:
        return []
    return [f"{kind} ({outcome.reason}: {outcome.detail})"]


def _codecs(refused: Sequence[str], versions: Mapping[str, str]) -> Finding:
    codecs = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not refused:
        return Finding("codecs", Level.OK, f"{', '.join(KINDS)} went through the sandbox; {codecs}")
    return Finding(
        "codecs",
        Level.PROBLEM,
        f"a good image was refused: {', '.join(refused)}; {codecs}",
        "install Pillow's own wheel (python -m pip install --force-reinstall Pillow), and check"
        " that crunch.memory is not too low",
    )


async def _bucket(tools: Tools, which: str, rights: frozenset[str]) -> Sequence[Finding]:
    name = f"{which} bucket"
    storage = tools.settings.storage
    place: str = getattr(storage, f"{which}_bucket")
    if storage.driver == "filesystem":
        folder = storage.directory.absolute() / place
        place = str(folder)
        found = await tools.files.run(_folder, name, folder)
        if found is not None:
            return [found]
        # A folder that may be written to may be deleted from.
        rights |= {"delete"} if "put" in rights else frozenset()
    probe = new_id()
    key = private_key(probe) if which == "private" else public_key(probe)
    if rights == _PUT_ONLY:
        # It stays, so it is the same object each time.
        from fxprofile.drivers.aws.s3 import PROBE

        key = PROBE
    await _probe(tools.bucket(which), key, rights)
    return [Finding(name, Level.OK, f"{place}: {', '.join(sorted(rights))}")]


def _folder(name: str, folder: Path) -> Finding | None:
    """Return why a folder is not probed, or None if it is."""
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        return Finding(
            name,
            Level.WARNING,
            f"{folder} does not exist yet",
            "the service creates it when it first writes, if storage.directory is right",
        )
    except OSError as error:
        return Finding(
            name, Level.PROBLEM, f"{folder}: {error.strerror}", "check storage.directory"
        )
    if os.geteuid() == 0 and owner != 0:
        # The service could not replace what root writes there.
        text = f"{folder} belongs to user {owner}: not tried"
        return Finding(name, Level.WARNING, text, f"run this as user {owner}")
    return None


async def _probe(bucket: IBucket, key: str, rights: frozenset[str]) -> None:
    """Do with an object what the rights allow, and leave none behind if they allow that."""
    if "put" in rights:
        await bucket.put(
            key=key,
            body=BytesBody(_PROBE),
            length=len(_PROBE),
            content_type="application/octet-stream",
        )
    try:
        if "get" in rights:
            await _get(bucket, key, exists="put" in rights)
    finally:
        if "delete" in rights:
            await bucket.delete(keys=[key])
    if {"get", "delete"} <= rights:
        await _get(bucket, key, exists=False)


async def _get(bucket: IBucket, key: str, *, exists: bool) -> None:
    try:
        _, body = await bucket.get(key=key)
        data = await read_all(body, len(_PROBE))
    except ObjectNotFound:
        if exists:
            raise
        return
    except OverflowError:
        data = b""
    if not exists:
        raise StorageError(f"{key} still exists after it was deleted")
    if data != _PROBE:
        raise StorageError(f"{key} does not hold what was put there")


async def _database(tools: Tools) -> Sequence[Finding]:
    try:
        database = await tools.open_database()
    except NotMigrated as error:
        if not tools.embedded:
            raise
        advice = "or start the service, which does that too"
        return [Finding("database", Level.WARNING, str(error), advice)]
    server = await database.run(_server_version, read_only=True)
    counts = (await tools.store.counts()).items()
    rows = ", ".join(f"{number} {status}" for status, number in counts if number)
    text = f"{where(tools.database_url)}, {server}; {rows or 'no pending rows'}"
    return [Finding("database", Level.OK, text)]


def _server_version(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar()}"
    return str(connection.execute(text("SELECT version()")).scalar()).partition(" on ")[0]


def _queue_label(name: str) -> str:
    return f"{name.replace('_', '-')} queue"


async def _queue(tools: Tools, name: str) -> Sequence[Finding]:
    label, in_database = _queue_label(name), tools.settings.queue.driver == "database"
    queue: Any = tools.queue(name)

    def warning(text: str, advice: str) -> Sequence[Finding]:
        return [Finding(label, Level.WARNING, text, advice)]

    if queue is None and name == "dead":
        return warning(
            "queue.dead_url is not set: rows of dead jobs stay in processing for a day",
            "set it to the URL that fxprofile-admin provision prints",
        )
    if queue is None:
        return []
    if in_database:
        try:
            await tools.open_database()
        except NotMigrated:
            return warning("in the database, which does not exist yet", "see database")
        except StoreError:
            text = "in the database, which does not answer"
            return [Finding(label, Level.PROBLEM, text, "see database")]
    shortcomings = await _shortcomings(tools, name)
    depth = await queue.depth()
    text = f"{depth.visible} waiting, {depth.in_flight} in flight"
    if depth.oldest is not None:
        text += f", the oldest for {duration(depth.oldest)}"
    if shortcomings:
        return warning(
            f"{text}; {', '.join(shortcomings)}",
            "fxprofile-admin provision --only=queues corrects it",
        )
    died_on = {"dead": "", "results_dead": " --queue=results"}.get(name)
    if died_on is not None and depth.visible:
        return warning(text, f"see fxprofile-admin dead list{died_on}")
    if name == "events" and in_database and (dead := (await queue.dead.depth()).visible):
        return warning(
            f"{text}; {dead} dead letters", "see fxprofile-admin dead list --queue=events"
        )
    return [Finding(label, Level.OK, text)]


async def _shortcomings(tools: Tools, name: str) -> list[str]:
    if tools.settings.queue.driver != "sqs":
        return []
    from fxprofile.admin.shared.aws import SqsQueues, wanted_queues

    for wanted in wanted_queues(tools.settings):
        if wanted.setting == f"queue.{name}_url":
            return wanted.shortcomings(await SqsQueues(tools).attributes(str(wanted.url)))
    return []


async def _identity(tools: Tools) -> Sequence[Finding]:
    identity, settings = tools.identity, tools.settings.identity
    answers = {server: await identity.check(server=server) for server in identity.servers}
    if not answers:
        return [Finding("identity", Level.OK, "development accounts")]
    findings = []
    for server, answered in answers.items():
        name, url = f"{server} server", getattr(settings, f"{server}_url", "")
        if answered:
            findings.append(Finding(name, Level.OK, f"{url} answers"))
        else:
            advice = f"check identity.{server}_url; is the server running and reachable from here?"
            findings.append(Finding(name, Level.PROBLEM, f"{url} does not answer", advice))
    return findings


async def _cache(tools: Tools) -> Sequence[Finding]:
    await tools.cache.check()
    return [Finding("cache", Level.OK, tools.settings.cache.driver)]

"""``fxprofile-admin doctor``: try everything that the service needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import Connection
from sqlalchemy import text as sql
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from fxprofile import __version__
from fxprofile.admin.shared.commands import AdminCommand, Answer, role_option, with_tools
from fxprofile.admin.shared.output import duration, table
from fxprofile.admin.shared.tools import NotMigrated, Tools, temporary_file, where
from fxprofile.crunch.result import CrunchOutcome
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model import errors
from fxprofile.model.keys import new_id, private_key, public_key
from fxprofile.settings.model import Role, Settings
from fxprofile.uploads.probe import bucket_rights, check_bucket

#: Seconds that one check may take.
TIMEOUT: Final = 30.0

#: One tiny image of each type, grey or brown, 2 by 2: ``sample.png`` and so on.
SAMPLES: Final = files("fxprofile.admin") / "samples"

#: The types of the samples.
KINDS: Final = ("jpeg", "png", "gif", "webp", "avif")

#: The queues of the worker, and those that only the web role uses; one that is not set is skipped.
WORKER_QUEUES: Final = ("jobs", "results")
WEB_QUEUES: Final = (*WORKER_QUEUES, "dead", "results_dead", "events", "updates")

_PROVISION: Final = (
    "check {}, and the rights that etc/aws gives; fxprofile-admin provision creates what is missing"
)
_OTHERS: Final = "check {}, and the rights that etc/aws gives; the queue belongs to the accounts"


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


class Flaw(Exception):
    """
    A check has found something wrong.

    :param text: what was found.
    :param advice: what to do about it.
    """

    def __init__(self, text: str, advice: str, level: Level = Level.WARNING) -> None:
        super().__init__(text)
        self.advice = advice
        self.level = level


@dataclass(frozen=True)
class Check:
    """
    One thing to try.

    :ivar look: returns what was found if all is well, empty for no finding; raises
        :class:`Flaw`, or an error of a driver, which is a problem.
    :ivar advice: for that problem.
    :ivar level: of that problem: a warning if the service works without what is tried.
    """

    name: str
    look: Callable[[], Coroutine[Any, Any, str]]
    advice: str
    level: Level = Level.PROBLEM


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
    rows: list[tuple[str, str, str]] = []
    for finding in findings:
        shown = "PROBLEM" if finding.level is Level.PROBLEM else finding.level
        rows.append((shown, finding.name, finding.text))
        if finding.advice is not None:
            rows.append(("", "", f"-> {finding.advice}"))
    members = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
    return Answer(members, table((), rows), status=0 if ok else 1)


async def run_checks(clock: IReactorTime, checks: Iterable[Check]) -> list[Finding]:
    """Run the checks at the same time, and return the findings in the order of the checks."""
    running = [Deferred.fromCoroutine(_run(clock, check)) for check in checks]
    found = await gatherResults(running, consumeErrors=True)
    return [finding for finding in found if finding.text]


async def _run(clock: IReactorTime, check: Check) -> Finding:
    name, advice = check.name, check.advice
    try:
        looking = Deferred.fromCoroutine(check.look()).addTimeout(TIMEOUT, clock)
        return Finding(name, Level.OK, await looking)
    except Flaw as flaw:
        return Finding(name, flaw.level, str(flaw), flaw.advice)
    except DeferredTimeout:
        return Finding(name, check.level, f"no response in {TIMEOUT:.0f} s", advice)
    except (AwsError, errors.ConfigError, errors.DriverError) as error:
        return Finding(name, check.level, " ".join(str(error).split()), advice)


def checks_for(tools: Tools, role: Role) -> Iterator[Check]:
    """Yield the checks that a role needs, in the order of the report."""
    settings = tools.settings
    serves_web = role in (Role.WEB, Role.COMBINED)
    yield Check("settings", partial(_settings, settings, role), "run fxprofile-admin check-config")
    if role in (Role.WORKER, Role.COMBINED):
        advice = "check crunch.sandbox, and the worker's log"
        yield Check("sandbox", partial(_sandbox, tools), advice)
        yield Check("codecs", partial(_codecs, tools), advice)
    for which, rights in bucket_rights(settings, role).items():
        advice = _PROVISION.format(f"storage.{which}_bucket")
        yield Check(f"{which} bucket", partial(_bucket, tools, which, rights), advice)
    if serves_web or (settings.queue.driver == "database" and role is Role.WORKER):
        advice = "check database.url; is the server running?"
        yield Check("database", partial(_database, tools), advice)
    queues = WEB_QUEUES if serves_web else WORKER_QUEUES if role is Role.WORKER else ()
    for name in queues:
        label = name.replace("_", "-")
        advice = _OTHERS if name in ("events", "updates") else _PROVISION
        advice = advice.format(f"queue.{name}_url")
        yield Check(f"{label} queue", partial(_queue, tools, name), advice)
    if serves_web:
        # An identity driver that cannot be made is a finding, so it is made by the check.
        for server in ("oauth", "auth") if settings.identity.driver == "fxa" else ():
            advice = f"check identity.{server}_url; is the server running and reachable from here?"
            yield Check(f"{server} server", partial(_identity, tools, server, advice), advice)
        if settings.identity.driver == "dev":
            yield Check("identity", _development_accounts, "")
        advice = "check cache.url; without it the service works, but slower"
        yield Check("cache", partial(_cache, tools), advice, Level.WARNING)


async def _settings(settings: Settings, role: Role) -> str:
    text = (
        f"fxprofile {__version__}, Python {platform.python_version()}, Twisted"
        f" {version('Twisted')}, for {settings.environment}"
    )
    doubts = settings.doubts(role)
    if doubts:
        raise Flaw(f"{text}; {'; '.join(doubts)}", "change these settings, unless that is intended")
    return text


async def _sandbox(tools: Tools) -> str:
    pool = await tools.crunch_pool()
    return check_layers(tools.settings.sandbox, pool.layers)


def check_layers(mode: str, layers: Mapping[str, bool]) -> str:
    """
    Return which layers of the sandbox are in force.

    :param mode: the setting ``crunch.sandbox``.
    :raises Flaw: if some are not, or nothing is in force.
    """
    missing = [name for name, in_force in layers.items() if not in_force]
    text = f"{mode}, layers: {', '.join(name for name in layers if name not in missing) or 'none'}"
    if mode == "off":
        raise Flaw(text, "off is for development only: leave crunch.sandbox unset")
    if "no_new_privs" in missing or {"seccomp", "landlock"} <= set(missing):
        raise Flaw(
            f"{text}; neither seccomp nor Landlock is available",
            "allow them in the container's seccomp profile, or use a kernel that supports them",
            Level.PROBLEM,
        )
    if missing:
        raise Flaw(
            f"{text}; unavailable: {', '.join(missing)}",
            "the other layers are in force; a newer kernel or a less restricted container has all",
        )
    return text


async def _codecs(tools: Tools) -> str:
    try:
        pool = await tools.crunch_pool()
    except errors.CruncherUnavailable:
        # The check of the sandbox reports it.
        return ""
    outcomes = {}
    for kind in KINDS:
        data = (SAMPLES / f"sample.{kind}").read_bytes()
        with await tools.files.run(temporary_file, data) as original:
            outcomes[kind] = (await pool.examine(original=original)).outcome
    return check_codecs(outcomes, pool.versions)


def check_codecs(outcomes: Mapping[str, CrunchOutcome], versions: Mapping[str, str]) -> str:
    """
    Return what the samples and the codecs are.

    :param outcomes: of each sample, by its type.
    :raises Flaw: if a sample was refused.
    """
    codecs = ", ".join(f"{name} {version}" for name, version in versions.items())
    refused = [
        f"{kind} ({outcome.reason}: {outcome.detail})"
        for kind, outcome in outcomes.items()
        if outcome.reason is not None or outcome.kind != kind
    ]
    if refused:
        raise Flaw(
            f"a valid image was refused: {', '.join(refused)}; {codecs}",
            "install Pillow's own wheel (python -m pip install --force-reinstall Pillow), and"
            " check that crunch.memory is not too low",
            Level.PROBLEM,
        )
    return f"{', '.join(outcomes)} went through the sandbox; {codecs}"


async def _bucket(tools: Tools, which: str, rights: frozenset[str]) -> str:
    storage = tools.settings.storage
    place: str = getattr(storage, f"{which}_bucket")
    if storage.driver == "filesystem":
        folder = storage.directory.absolute() / place
        place = str(folder)
        await tools.files.run(_check_folder, folder)
    # A role that may only put leaves an object, so it is the same one each time.
    make_key = private_key if which == "private" else public_key
    key = make_key(new_id()) if "delete" in rights or "put" not in rights else None
    try:
        await check_bucket(tools.bucket(which), rights, key)
    except errors.StorageError as error:
        if works := await _working_payload(tools, which, rights):
            advice = f'set storage.payload = "{works}", which works'
            raise Flaw(" ".join(str(error).split()), advice, Level.PROBLEM) from None
        raise
    return f"{place}: {', '.join(sorted(rights))}"


async def _working_payload(tools: Tools, which: str, rights: frozenset[str]) -> str | None:
    """Return the first value of ``storage.payload`` with which a bucket works."""
    storage = tools.settings.storage
    if storage.driver != "s3" or "put" not in rights:
        return None
    from fxprofile.drivers.aws.s3 import PAYLOADS, s3_bucket

    for payload in PAYLOADS:
        changed = {"storage": storage.model_copy(update={"payload": payload})}
        settings = tools.settings.model_copy(update=changed)
        bucket = s3_bucket(settings, tools.aws, getattr(storage, f"{which}_bucket"))
        try:
            await check_bucket(bucket, rights)
        except errors.StorageError:
            continue
        return payload
    return None


def _check_folder(folder: Path) -> None:
    """
    Check that a folder can be probed.

    :raises Flaw: if it can not.
    """
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        advice = "the service creates it when it first writes, if storage.directory is right"
        raise Flaw(f"{folder} does not exist yet", advice) from None
    except OSError as error:
        text = f"{folder}: {error.strerror}"
        raise Flaw(text, "check storage.directory", Level.PROBLEM) from None
    if os.geteuid() == 0 and owner != 0:
        # The service could not replace what root writes there.
        raise Flaw(f"{folder} belongs to user {owner}: not checked", f"run this as user {owner}")


async def _database(tools: Tools) -> str:
    try:
        database = await tools.open_database()
    except NotMigrated as error:
        if not tools.database_url.startswith("sqlite"):
            raise
        raise Flaw(str(error), "or start the service, which does that too") from None
    server = await database.run(_server_version, read_only=True)
    counts = (await tools.store.counts()).items()
    rows = ", ".join(f"{number} {status}" for status, number in counts if number)
    return f"{where(tools.database_url)}, {server}; {rows or 'no pending rows'}"


def _server_version(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {connection.execute(sql('SELECT sqlite_version()')).scalar()}"
    return str(connection.execute(sql("SELECT version()")).scalar()).partition(" on ")[0]


async def _queue(tools: Tools, name: str) -> str:
    if tools.is_in_memory(name):
        return "in the memory of the combined process"
    queue = tools.queue(name)
    if queue is None:
        return ""
    if isinstance(queue, DatabaseQueue):
        try:
            await tools.open_database()
        except NotMigrated:
            raise Flaw("in the database, which does not exist yet", "see database") from None
        except errors.StoreError:
            text = "in the database, which does not respond"
            raise Flaw(text, "see database", Level.PROBLEM) from None
    shortcomings = await _shortcomings(tools, name)
    depth = await queue.depth()
    text = f"{depth.visible} waiting, {depth.in_flight} in flight"
    if depth.oldest is not None:
        text += f", the oldest for {duration(depth.oldest)}"
    if shortcomings:
        advice = "fxprofile-admin provision --only=queues corrects it"
        raise Flaw(f"{text}; {', '.join(shortcomings)}", advice)
    source, dead = {"dead": "jobs", "results_dead": "results"}.get(name), depth.visible
    if name == "events" and isinstance(queue, DatabaseQueue):
        source, dead = name, (await queue.dead.depth()).visible
        text += f"; {dead} dead letters"
    if source is not None and dead:
        raise Flaw(text, f"see fxprofile-admin dead list --queue={source}")
    return text


async def _shortcomings(tools: Tools, name: str) -> list[str]:
    if tools.settings.queue.driver != "sqs":
        return []
    from fxprofile.admin.shared.aws import attributes, wanted_queues

    for wanted in wanted_queues(tools.settings):
        if wanted.setting == f"queue.{name}_url":
            return wanted.shortcomings(await attributes(tools, str(wanted.url)))
    return []


async def _identity(tools: Tools, server: str, advice: str) -> str:
    url = getattr(tools.settings.identity, f"{server}_url")
    if not await tools.identity.check(server=server):
        raise Flaw(f"{url} does not respond", advice, Level.PROBLEM)
    return f"{url} answers"


async def _development_accounts() -> str:
    return "development accounts"


async def _cache(tools: Tools) -> str:
    await tools.cache.check()
    return tools.settings.cache.driver

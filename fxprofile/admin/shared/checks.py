"""
What the doctor looks at.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

from sqlalchemy import Connection, text

from fxprofile import __version__
from fxprofile.admin.crunch import start_pool
from fxprofile.admin.shared.findings import Check, Finding, fine, problem, warning
from fxprofile.admin.shared.output import duration
from fxprofile.admin.shared.samples import SAMPLES
from fxprofile.admin.shared.tools import NotMigrated, Tools, where
from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.model.errors import ObjectNotFound, StorageError, StoreError
from fxprofile.model.keys import new_id, private_key, public_key
from fxprofile.model.ports import IBucket
from fxprofile.settings.model import Role, Settings

#: What a probe object holds.
_PROBE: Final = b"fxprofile-admin doctor"

#: Layers that leave a child with more than it should have, if they are missing.
_WALLS: Final = ("seccomp", "landlock")

#: What each role does with the objects of each bucket.
RIGHTS: Final[dict[Role, dict[str, frozenset[str]]]] = {
    Role.WEB: {"private": frozenset({"put"})},
    Role.WORKER: {
        "private": frozenset({"get", "delete"}),
        "public": frozenset({"put", "get", "delete"}),
    },
    Role.IMAGES: {"public": frozenset({"get"})},
    Role.COMBINED: {
        "private": frozenset({"put", "get", "delete"}),
        "public": frozenset({"put", "get", "delete"}),
    },
}

#: The queues of each role; what is not set is left out, if it need not be.
QUEUES: Final = {
    Role.WEB: ("jobs", "results", "dead", "results_dead", "events", "updates"),
    Role.WORKER: ("jobs", "results"),
    Role.IMAGES: (),
    Role.COMBINED: ("jobs", "results", "dead", "results_dead", "events", "updates"),
}


def checks_for(tools: Tools, role: Role) -> Iterator[Check]:
    """The checks that a role needs, in the order of the report."""
    settings = tools.settings

    def check(name: str, look: Callable[[Tools], Awaitable[Any]], advice: str) -> Check:
        return Check(name, partial(look, tools), advice)

    serves_web = role in (Role.WEB, Role.COMBINED)
    yield Check("settings", partial(_settings, tools, role), "see fxprofile-admin check-config")
    if role in (Role.WORKER, Role.COMBINED):
        yield check("sandbox", _crunching, "see crunch.sandbox, and the log of the worker")
    for which, rights in RIGHTS[role].items():
        yield Check(
            f"{which} bucket",
            partial(_bucket, tools, which, rights),
            f"see storage.{which}_bucket, and the rights that etc/aws gives; "
            "fxprofile-admin provision makes what is missing",
        )
    if serves_web or (settings.queue.driver == "database" and role is Role.WORKER):
        yield check("database", _database, "see database.url; is the server up?")
    for name in QUEUES[role]:
        yield Check(
            _queue_label(name),
            partial(_queue, tools, name),
            f"see queue.{name}_url, and the rights that etc/aws gives; "
            "fxprofile-admin provision makes what is missing",
        )
    if serves_web:
        yield check("identity", _identity, "see identity.oauth_url and identity.auth_url")
        yield check("cache", _cache, "see cache.url; the service goes on without, and slower")


async def _settings(tools: Tools, role: Role) -> Sequence[Finding]:
    settings = tools.settings
    versions = (
        f"fxprofile {__version__}, Python {platform.python_version()}, Twisted {version('Twisted')}"
    )
    if settings.environment == "development":
        return [fine("settings", f"{versions}, for development")]
    local = settings.single_host_drivers(role)
    if local:
        return [
            warning(
                "settings",
                f"{versions}, for production, with {', '.join(local)}",
                "this is right for one machine; several need s3, sqs, redis and a database server",
            )
        ]
    return [fine("settings", f"{versions}, for production")]


async def _crunching(tools: Tools) -> Sequence[Finding]:
    pool = await start_pool(tools)
    return [*_layers(tools.settings, pool.layers() or {}), await _codecs(tools, pool)]


def _layers(settings: Settings, layers: dict[str, bool]) -> Iterator[Finding]:
    held = ", ".join(name for name, holds in layers.items() if holds) or "nothing"
    missing = [name for name, holds in layers.items() if not holds]
    said = f"{settings.sandbox}, held by {held}"
    if settings.sandbox == "off":
        yield warning("sandbox", said, "off is for development only: leave crunch.sandbox unset")
    elif not layers.get("no_new_privs") or not any(layers.get(wall) for wall in _WALLS):
        yield problem(
            "sandbox",
            f"{said}; neither seccomp nor Landlock can be had",
            "let the container use them (its seccomp profile), or use a kernel that has them",
        )
    elif missing:
        yield warning(
            "sandbox",
            f"{said}; not to be had: {', '.join(missing)}",
            "the others hold; a newer kernel, or a container that allows more, has all",
        )
    else:
        yield fine("sandbox", said)


async def _codecs(tools: Tools, pool: Any) -> Finding:
    refused = []
    for kind, data in SAMPLES.items():
        with await tools.files.run(_file_of, data) as original:
            report = await pool.examine(original=original)
        outcome = report.outcome
        if outcome.reason is not None or outcome.kind != kind:
            refused.append(f"{kind} ({outcome.reason}: {outcome.detail})")
    versions = ", ".join(f"{name} {version}" for name, version in pool.versions.items())
    if refused:
        return problem(
            "codecs",
            f"a good image was refused: {', '.join(refused)}; {versions}",
            "install Pillow's own wheel (python -m pip install --force-reinstall Pillow), and see"
            " whether crunch.memory is too low",
        )
    return fine("codecs", f"{', '.join(SAMPLES)} went through the sandbox; {versions}")


def _file_of(data: bytes) -> Any:
    file = TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.flush()
    return file


async def _bucket(tools: Tools, which: str, rights: frozenset[str]) -> Sequence[Finding]:
    name = f"{which} bucket"
    storage = tools.settings.storage
    bucket_name = getattr(storage, f"{which}_bucket")
    place = bucket_name
    if storage.driver == "filesystem":
        folder = storage.directory.absolute() / bucket_name
        place = str(folder)
        found = await tools.files.run(_folder, name, folder)
        if found is not None:
            return [found]
        # There are no rights to be without.
        rights |= {"delete"} if "put" in rights else frozenset()
    probe = new_id()
    key = private_key(probe) if which == "private" else public_key(probe)
    if "put" in rights and "delete" not in rights:
        # What stays is the same object each time.
        from fxprofile.drivers.aws.s3 import PROBE

        key = PROBE
    await _probe(tools.bucket(which), key, rights)
    return [fine(name, f"{place}: {', '.join(sorted(rights))}")]


def _folder(name: str, folder: Path) -> Finding | None:
    """What keeps a folder from being probed."""
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        return warning(
            name,
            f"{folder} is not there yet",
            "the service makes it when it is first written to, if storage.directory is right",
        )
    except OSError as error:
        return problem(name, f"{folder}: {error.strerror}", "see storage.directory")
    if os.geteuid() == 0 and owner != 0:
        # What root writes there, the service cannot replace.
        return warning(
            name, f"{folder} belongs to user {owner}: not tried", f"run this as user {owner}"
        )
    return None


async def _probe(bucket: IBucket, key: str, rights: frozenset[str]) -> None:
    """Do with an object what the rights allow; nothing stays if they allow that."""
    if "put" in rights:
        await bucket.put(
            key=key,
            body=BytesBody(_PROBE),
            length=len(_PROBE),
            content_type="application/octet-stream",
        )
    try:
        if "get" in rights:
            await _get(bucket, key, there="put" in rights)
    finally:
        if "delete" in rights:
            await bucket.delete(keys=[key])
    if {"get", "delete"} <= rights:
        await _get(bucket, key, there=False)


async def _get(bucket: IBucket, key: str, *, there: bool) -> None:
    try:
        _, body = await bucket.get(key=key)
        data = await read_all(body, len(_PROBE))
    except ObjectNotFound:
        if there:
            raise
        return
    except OverflowError:
        data = b""
    if not there:
        raise StorageError(f"{key} is there although it was deleted")
    if data != _PROBE:
        raise StorageError(f"{key} does not hold what was put there")


async def _database(tools: Tools) -> Sequence[Finding]:
    place = where(tools.database_url)
    try:
        database = await tools.open_database()
    except NotMigrated as error:
        if tools.embedded:
            return [warning("database", str(error), "or start the service, which does that too")]
        raise
    server = await database.run(_server_version, read_only=True)
    counts = await tools.store.counts()
    waiting = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    return [fine("database", f"{place}, {server}; {waiting or 'no rows in work'}")]


def _server_version(connection: Connection) -> str:
    name = connection.dialect.name
    if name == "sqlite":
        return f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar()}"
    return str(connection.execute(text("SELECT version()")).scalar()).partition(" on ")[0]


def _queue_label(name: str) -> str:
    return f"{name.replace('_', '-')} queue"


async def _queue(tools: Tools, name: str) -> Sequence[Finding]:
    label = _queue_label(name)
    queue: Any = tools.queue(name)
    if queue is None:
        if name == "dead":
            return [
                warning(
                    label,
                    "queue.dead_url is not set: rows of dead jobs stay in processing for a day",
                    "set it; fxprofile-admin provision prints what to",
                )
            ]
        return []
    if tools.settings.queue.driver == "database":
        try:
            await tools.open_database()
        except NotMigrated:
            return [warning(label, "in the database, which is not there yet", "see database")]
        except StoreError:
            return [problem(label, "in the database, which does not answer", "see database")]
    shortcomings = await _shortcomings(tools, name)
    depth = await queue.depth()
    said = f"{depth.visible} waiting, {depth.in_flight} in flight"
    if depth.oldest is not None:
        said += f", the oldest for {duration(depth.oldest)}"
    if shortcomings:
        return [
            warning(
                label,
                f"{said}; {', '.join(shortcomings)}",
                "fxprofile-admin provision --only=queues sets it right",
            )
        ]
    if name == "dead" and depth.visible:
        return [warning(label, said, "see fxprofile-admin dead list")]
    if name == "results_dead" and depth.visible:
        return [warning(label, said, "see fxprofile-admin dead list --queue=results")]
    if name == "events" and tools.settings.queue.driver == "database":
        dead = (await queue.dead.depth()).visible
        if dead:
            advice = f"see fxprofile-admin dead list --queue={name}"
            return [warning(label, f"{said}; {dead} dead letters", advice)]
    return [fine(label, said)]


async def _shortcomings(tools: Tools, name: str) -> list[str]:
    if tools.settings.queue.driver != "sqs":
        return []
    from fxprofile.admin.provision.sqs import Queues, wanted_queues
    from fxprofile.drivers.aws.shared import client_of

    client = client_of(tools.settings, reactor=tools.reactor, threads=tools.files)
    for wanted in wanted_queues(tools.settings):
        if wanted.setting == f"queue.{name}_url":
            return await Queues(client, tools.settings).shortcomings(wanted)
    return []


async def _identity(tools: Tools) -> Sequence[Finding]:
    identity = tools.identity
    answers = {server: await identity.check(server=server) for server in identity.servers}
    if not answers:
        return [fine("identity", "development accounts")]
    urls = {
        "oauth": tools.settings.identity.oauth_url,
        "auth": tools.settings.identity.auth_url,
    }
    return [
        fine(f"{name} server", f"{urls.get(name, '')} answers")
        if answered
        else problem(
            f"{name} server",
            f"{urls.get(name, '')} does not answer",
            f"see identity.{name}_url; is the server up, and does this machine reach it?",
        )
        for name, answered in answers.items()
    ]


async def _cache(tools: Tools) -> Sequence[Finding]:
    await tools.cache.check()
    return [fine("cache", tools.settings.cache.driver)]

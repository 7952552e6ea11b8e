"""
The roles: what each kind of process starts.

One function per role.  Imports are inside the functions, so that a process loads only what
its role uses: the web role never imports Pillow, the worker never Klein, the images role
neither database nor queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from twisted.web.resource import Resource

from fxprofile.app.services import Services
from fxprofile.deferreds.services import Repeating
from fxprofile.model.errors import CacheError
from fxprofile.model.ports import IBucket
from fxprofile.serving.admin import AdminResource
from fxprofile.serving.channel import StreamingSite
from fxprofile.serving.connections import ConnectionLimits
from fxprofile.serving.status import StatusPage
from fxprofile.settings.model import ImagesSettings, Role, WebSettings

if TYPE_CHECKING:
    from fxprofile.app.processes import Supervisor
    from fxprofile.web.page import Playground
    from fxprofile.web.upload import UploadEndpoints


#: Seconds by which the clocks of a process and of its database may differ without a notice.
SKEW: Final = 30


def add_role(role: Role, services: Services) -> None:
    """
    Add what a role starts.

    :param services: their ``stack`` is what is to be started.
    :raises ConfigError: if a setting cannot be used.
    """
    add_admin(services, role)
    if role in (Role.WEB, Role.COMBINED):
        # Results are applied until the worker has stopped, which stops first.
        add_web_loops(services)
    if role in (Role.WORKER, Role.COMBINED):
        add_worker(services)
    if role in (Role.WEB, Role.COMBINED):
        add_api(services)
        _add_api_checks(services, role)
    if role in (Role.IMAGES, Role.COMBINED):
        add_images(services)
    # It starts last and stops first: the heartbeats turn red before anything else stops.
    services.started(services.health)


def add_admin(services: Services, role: Role) -> None:
    """Add the admin listener, which starts first and stops last."""
    version = services.health.version
    services.metrics.build.info(
        {"version": version["version"], "commit": version["commit"], "role": role.value}
    )
    page = StatusPage.read()
    resource = AdminResource(health=services.health, metrics=services.metrics.render, page=page)
    site = StreamingSite(resource, reactor=services.reactor)
    services.listen("admin.listen", services.settings.admin_listen(role), site)


def add_supervisor(role: Role, services: Services, arguments: Sequence[str]) -> Supervisor:
    """
    Add the processes of a role instead of the role, and the admin listener for all of them.

    :param arguments: of ``twistd fxprofile`` for each of them.
    """
    from fxprofile.app.processes import CHECK_EVERY, Supervisor
    from fxprofile.app.together import AllHealth, AllMetrics

    settings, count = services.settings, services.settings.processes(role)
    services.health = health = AllHealth(services.reactor, count)
    key, section = (
        ("web.listen", settings.web) if role is Role.WEB else ("images.listen", settings.images)
    )
    # It has no connections.
    site = StreamingSite(Resource(), reactor=services.reactor)
    supervisor = Supervisor(
        reactor=services.reactor, arguments=arguments, count=count, listener=None
    )
    health.supervisor = supervisor
    metrics = AllMetrics(supervisor).render
    resource = AdminResource(health=health, metrics=metrics, page=StatusPage.read())
    admin = StreamingSite(resource, reactor=services.reactor)
    services.listen("admin.listen", settings.admin_listen(role), admin)
    services.started(supervisor)
    services.started(Repeating(services.reactor, CHECK_EVERY, supervisor.watch, "check processes"))
    # It closes first, so that no connection waits for processes that end.
    supervisor.listener = services.listen(key, section.listen, site)
    services.readiness.append(supervisor.ready)
    services.started(health)
    return supervisor


def add_images(services: Services) -> None:
    """Add the images role, which serves the public bucket."""
    from fxprofile.images.resource import make_site

    settings = services.settings
    services.health.add("public bucket", services.public_bucket.check)
    site = make_site(
        bucket=services.public_bucket,
        max_age=settings.images.max_age,
        max_stale=settings.images.max_stale,
        path=urlsplit(settings.images.url).path,
        formats=settings.crunch.formats,
        clock=services.reactor,
        metrics=services.metrics,
        limits=_limits(services, "images"),
    )
    services.listen("images.listen", settings.images.listen, site)


def add_worker(services: Services) -> None:
    """Add the worker role, which runs jobs: originals in, avatars and results out."""
    health = services.health
    _create_folder(services, services.private_bucket)
    _create_folder(services, services.public_bucket)
    health.add("cruncher", services.cruncher.check)
    health.add("jobs poller", services.jobs_poller.check)
    health.add("jobs queue", services.jobs_queue.check)
    health.add("results queue", services.results_queue.check)
    health.add("private bucket", services.private_bucket.check)
    health.add("public bucket", services.public_bucket.check)


def add_web_loops(services: Services) -> None:
    """Add the loops of the web role: apply results and account events, and repair failures."""
    services.health.add("results poller", services.results_poller.check)
    services.health.add("results queue", services.results_queue.check)
    if services.events_poller is not None and services.events_queue is not None:
        services.health.add("events poller", services.events_poller.check)
        services.health.add("events queue", services.events_queue.check)
    # It starts with the process; no other service uses it.
    _ = services.repair


def add_api(services: Services) -> None:
    """Add the API listener, with each group of endpoints."""
    from fxprofile.web.api import Api
    from fxprofile.web.avatar import AvatarEndpoints
    from fxprofile.web.dockerflow import Dockerflow
    from fxprofile.web.openapi import OpenApi
    from fxprofile.web.profile import ProfileEndpoints

    settings, reactor = services.settings, services.reactor
    _create_folder(services, services.private_bucket)
    secret = settings.secret_bearer_token
    api = Api(
        identity=services.identity,
        metrics=services.metrics,
        clock=reactor,
        secret="" if secret is None else secret.get_secret_value(),
        cors_headers=settings.web.cors_headers,
        writes=services.limiter("write", "limits.writes_per_minute", 60),
        address_depth=settings.web.client_address_depth,
    )
    services.follow("secret_bearer_token", api.change_secret)
    api.add(_uploads(services))
    api.add(
        AvatarEndpoints(
            profiles=services.profiles,
            selection=services.selection,
            monograms=settings.monogram.enabled,
        )
    )
    api.add(
        ProfileEndpoints(
            profiles=services.profiles,
            invalidator=services.invalidator,
            started=reactor.seconds(),
            clock=reactor,
        )
    )
    open_api = OpenApi(api, public_url=settings.web.public_url)
    api.add(open_api)
    playground = _playground(services)
    if playground is not None:
        api.add(playground)
    api.add(Dockerflow(health=services.health, playground=playground))
    # Building the document takes tens of milliseconds, and the reactor does not run yet.
    _ = open_api.encoded
    site = api.site(_limits(services, "web"))
    services.listen("web.listen", settings.web.listen, site)


def _uploads(services: Services) -> UploadEndpoints:
    """The endpoints that accept uploads."""
    from fxprofile.web.upload import UploadEndpoints

    endpoints = UploadEndpoints(
        intake=services.intake,
        selection=services.selection,
        store=services.store,
        identity=services.identity,
        shedder=services.shedder,
        admission=services.admission,
        metrics=services.metrics,
        clock=services.reactor,
        max_bytes=services.settings.uploads.max_bytes,
        wait=services.settings.uploads.wait,
        image_template=services.settings.images.url,
        address_depth=services.settings.web.client_address_depth,
    )
    for name in ("max_bytes", "wait"):
        services.follow(f"uploads.{name}", partial(setattr, endpoints, name))
    return endpoints


def _limits(services: Services, name: Literal["web", "images"]) -> ConnectionLimits:
    """Return the limits of a listener; behind a proxy all connections are of one address."""
    section: WebSettings | ImagesSettings = getattr(services.settings, name)
    behind_proxy = services.settings.web.client_address_depth > 0
    limits = ConnectionLimits(
        clock=services.reactor,
        metrics=services.metrics,
        listener="api" if name == "web" else name,
        maximum=section.max_connections,
        per_address=0 if behind_proxy else section.max_connections_per_address,
    )
    services.follow(f"{name}.max_connections", partial(setattr, limits, "maximum"))
    if not behind_proxy:
        key = f"{name}.max_connections_per_address"
        services.follow(key, partial(setattr, limits, "per_address"))
    return limits


def _add_api_checks(services: Services, role: Role) -> None:
    """Add what the heartbeat of the web role checks."""
    from fxprofile.uploads.probe import UploadProbe, bucket_rights

    health = services.health
    rights = bucket_rights(services.settings, role)["private"]
    health.add("database", partial(_check_database, services))
    uploads = UploadProbe(bucket=services.private_bucket, rights=rights, clock=services.reactor)
    health.add("private bucket", uploads.check)
    if services.disk_space is not None:
        health.add("storage", services.disk_space.check)
    health.add("jobs queue", services.jobs_queue.check)
    for server in services.identity.servers:
        health.add(f"{server} server", partial(services.identity.check, server=server))
    if services.settings.cache.driver == "redis":
        health.add("cache", partial(check_cache, services))


async def check_cache(services: Services) -> str | None:
    """Return a text for the heartbeat if the cache does not respond: the service works without."""
    try:
        await services.cache.check()
    except CacheError:
        return "unreachable"
    return None


async def _check_database(services: Services) -> str | None:
    """Check that the database takes writes, and compare its clock with that of this process."""
    ahead = await services.store.check() - services.reactor.seconds()
    if abs(ahead) <= SKEW:
        return None
    return f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this process"


def _playground(services: Services) -> Playground | None:
    """The development page, where tokens are public anyway."""
    from fxprofile.web.page import Playground, read_files

    settings = services.settings
    if settings.environment != "development" or settings.identity.driver != "dev":
        return None
    return Playground(settings=settings, files=read_files())


def _create_folder(services: Services, bucket: IBucket) -> None:
    """Have the folder of a bucket of files created before the reactor runs."""
    make_folder = getattr(bucket, "make_folder", None)
    if make_folder is not None:
        services.on_disk.append(("storage.directory", make_folder))

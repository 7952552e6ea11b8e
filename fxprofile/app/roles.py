"""
The roles: which parts a process is made of.

One function a role, and this is the only place that sees every part.  Imports are
inside the functions, so that no process loads what its role does not need: the web role
never imports Pillow, the worker never Klein, the images role neither database nor queue.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service

from fxprofile.app.services import Parts
from fxprofile.deferreds.services import Stack
from fxprofile.serving.admin import AdminResource
from fxprofile.serving.health import Health
from fxprofile.serving.site import StreamingSite
from fxprofile.settings.model import Role, Settings

if TYPE_CHECKING:
    from fxprofile.uploads.accept import Intake

#: Results that the web role applies at one time.
RESULT_SLOTS = 10


class _GoingDown(Service):
    """Stops first: tells the heartbeats that this process is about to end."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def stopService(self) -> None:
        super().stopService()
        self._health.stopping = True


def make_role(role: Role, settings: Settings, reactor: Any) -> Parts:
    """
    Put a process together.

    :returns: its parts; their ``stack`` is the service to start.
    :raises ConfigError: if a setting cannot be used.
    """
    parts = Parts(settings, reactor, Stack())
    add_admin(parts, role)
    if role in (Role.WORKER, Role.COMBINED):
        add_worker(parts)
    if role in (Role.WEB, Role.COMBINED):
        add_web(parts)
    if role in (Role.IMAGES, Role.COMBINED):
        add_images(parts)
    _GoingDown(parts.health).setServiceParent(parts.stack)
    return parts


def add_admin(parts: Parts, role: Role) -> None:
    """Add the admin listener: it starts first and ends last."""
    site = StreamingSite(
        AdminResource(health=parts.health, metrics=parts.metrics), reactor=parts.reactor
    )
    parts.listen("admin.listen", parts.settings.admin_listen(role), site)


def add_images(parts: Parts) -> None:
    """Add the images role: it serves the public bucket, and knows nothing else."""
    from fxprofile.images.site import make_site

    settings = parts.settings
    public = parts.bucket("public", writes=False)
    parts.health.add("public bucket", public.check)
    site = make_site(
        bucket=public,
        max_age=settings.images.max_age,
        formats=settings.crunch.formats,
        clock=parts.reactor,
        metrics=parts.metrics,
    )
    parts.listen("images.listen", settings.images.listen, site)


def add_worker(parts: Parts) -> None:
    """Add the worker role: jobs in, pictures and results out."""
    from fxprofile.crunch.pool import pool_from_settings
    from fxprofile.worker.jobs import JobRunner
    from fxprofile.worker.poller import Poller

    settings = parts.settings
    jobs = parts.needed_queue("jobs")
    results = parts.needed_queue("results")
    private, public = parts.bucket("private"), parts.bucket("public")
    cruncher = parts.once("cruncher", lambda: pool_from_settings(parts.reactor, settings))

    async def sandboxed() -> None:
        for layer, in_force in (await cruncher.when_ready()).items():
            parts.metrics.sandbox_layer.labels(layer).set(in_force)

    parts.must_be_ready(sandboxed)
    runner = JobRunner(
        private=private,
        public=public,
        results=results,
        cruncher=cruncher,
        threads=parts.files,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller = Poller(
        queue=jobs,
        handler=runner.handle,
        slots=settings.crunch.processes,
        visibility_timeout=settings.queue.visibility_timeout,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller.setServiceParent(parts.stack)
    _is_healthy(parts.health, "jobs poller", poller)
    parts.health.add("jobs queue", jobs.check)
    parts.health.add("results queue", results.check)
    parts.health.add("private bucket", private.check)
    parts.health.add("public bucket", public.check)


def add_web(parts: Parts) -> None:
    """Add the web role: the API, and the loops that keep profiles right."""
    from fxprofile.uploads.accept import Intake

    intake = Intake(
        private=parts.bucket("private"),
        store=parts.store,
        outbox=parts.outbox,
        clock=parts.reactor,
        heic=parts.settings.crunch.heic,
    )
    _add_results(parts)
    _add_account_events(parts)
    _add_repair(parts, intake)
    _add_api(parts, intake)


def _add_results(parts: Parts) -> None:
    from fxprofile.drivers.queues import RESULTS_VISIBILITY
    from fxprofile.worker.poller import Poller

    results = parts.needed_queue("results")
    poller = Poller(
        queue=results,
        handler=parts.selection.handle,
        slots=RESULT_SLOTS,
        visibility_timeout=RESULTS_VISIBILITY,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller.setServiceParent(parts.stack)
    parts.health.add("results queue", results.check)
    _is_healthy(parts.health, "results poller", poller)


def _add_account_events(parts: Parts) -> None:
    from fxprofile.drivers.queues import RESULTS_VISIBILITY
    from fxprofile.profiles.account_events import AccountEvents
    from fxprofile.worker.poller import Poller

    events = parts.queue("events")
    if events is None:
        return
    poller = Poller(
        queue=events,
        handler=AccountEvents(
            selection=parts.selection,
            invalidator=parts.invalidator,
            identity=parts.identity,
            metrics=parts.metrics,
        ).handle,
        slots=RESULT_SLOTS,
        visibility_timeout=RESULTS_VISIBILITY,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller.setServiceParent(parts.stack)
    parts.health.add("events queue", events.check)
    _is_healthy(parts.health, "events poller", poller)


def _add_repair(parts: Parts, intake: Intake) -> None:
    from fxprofile.uploads.repair import Repair

    Repair(
        store=parts.store,
        outbox=parts.outbox,
        selection=parts.selection,
        intake=intake,
        dead=parts.queue("dead"),
        dead_results=parts.queue("results_dead"),
        metrics=parts.metrics,
        clock=parts.reactor,
    ).setServiceParent(parts.stack)


def _add_api(parts: Parts, intake: Intake) -> None:
    from fxprofile.drivers.cache import windows_from_config
    from fxprofile.drivers.identity import customs_from_config
    from fxprofile.profiles.read import Profiles
    from fxprofile.web.admission import UploadAdmission
    from fxprofile.web.api import Api
    from fxprofile.web.auth_server import AuthServerEndpoints
    from fxprofile.web.avatar import AvatarEndpoints
    from fxprofile.web.dockerflow import Dockerflow
    from fxprofile.web.openapi import OpenApi
    from fxprofile.web.page import Playground
    from fxprofile.web.profile import ProfileEndpoints
    from fxprofile.web.upload import UploadEndpoints

    settings, reactor = parts.settings, parts.reactor
    monograms = settings.monogram.enabled
    profiles = Profiles(
        identity=parts.identity,
        store=parts.store,
        cache=parts.cache,
        invalidator=parts.invalidator,
        metrics=parts.metrics,
        clock=reactor,
        image_template=settings.images.url,
        monogram_url=f"{settings.web.public_url}/v1/avatar/" if monograms else None,
    )
    customs = customs_from_config(settings, reactor, parts.metrics)
    if customs is not None:
        customs.setServiceParent(parts.stack)
    admission = UploadAdmission(
        windows=windows_from_config(settings, reactor, parts.cache),
        customs=customs,
        metrics=parts.metrics,
        per_hour=settings.uploads.per_hour,
        address_depth=settings.web.client_address_depth,
    )
    secret = settings.secret_bearer_token
    api = Api(
        identity=parts.identity,
        metrics=parts.metrics,
        clock=reactor,
        secret="" if secret is None else secret.get_secret_value(),
    )
    api.add(
        UploadEndpoints(
            intake=intake,
            selection=parts.selection,
            store=parts.store,
            identity=parts.identity,
            admission=admission,
            metrics=parts.metrics,
            clock=reactor,
            max_bytes=settings.uploads.max_bytes,
            wait=settings.uploads.wait,
            image_template=settings.images.url,
        )
    )
    api.add(AvatarEndpoints(profiles=profiles, selection=parts.selection, monograms=monograms))
    api.add(ProfileEndpoints(profiles=profiles, started=reactor.seconds(), clock=reactor))
    api.add(OpenApi(api, public_url=settings.web.public_url))
    if secret is not None:
        api.add(AuthServerEndpoints(profiles=profiles, invalidator=parts.invalidator))
    page = None
    if settings.environment == "development" and settings.identity.driver == "dev":
        playground = Playground(
            accounts=settings.identity.dev.accounts,
            public_url=settings.web.public_url,
            image_template=settings.images.url,
            max_bytes=settings.uploads.max_bytes,
            threads=parts.files,
        )
        api.add(playground)
        page = playground.page
    api.add(Dockerflow(health=parts.health, page=page))
    parts.listen("web.listen", settings.web.listen, api.site(reactor))
    parts.health.add("database", parts.store.check)
    parts.health.add("private bucket", parts.bucket("private").check)
    parts.health.add("jobs queue", parts.needed_queue("jobs").check)
    for server in parts.identity.servers:
        parts.health.add(f"{server} server", partial(parts.identity.check, server=server))


def _is_healthy(health: Health, name: str, poller: Any) -> None:
    async def check() -> bool:
        return bool(poller.healthy)

    health.add(name, check)

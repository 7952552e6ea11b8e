"""Tests of :mod:`fxprofile.app.services`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.app.services import Services
from fxprofile.drivers.aws.s3 import S3Bucket
from fxprofile.drivers.aws.sqs import SqsQueue
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import Settings
from tests.support.fakes.store import MemoryProfileStore

ROOT = Path(__file__).parents[2]


def services(**sections: object) -> Services:
    """The services that some settings describe."""
    return Services(Settings(**sections), MemoryReactorClock())


def names(started: Services) -> list[str]:
    """The services on the stack, in the order in which they start."""
    return [service.name or type(service).__name__ for service in started.stack]


class DriverTests(SynchronousTestCase):
    """Which driver a setting chooses."""

    def test_buckets_are_chosen_by_storage_driver(self) -> None:
        """``storage.driver`` chooses the driver of both buckets."""
        for driver, kind in (("filesystem", FilesystemBucket), ("s3", S3Bucket)):
            made = services(storage={"driver": driver})
            for bucket, name in (
                (made.private_bucket, "fxprofile-private"),
                (made.public_bucket, "fxprofile-public"),
            ):
                self.assertIsInstance(bucket, kind)
                self.assertIn(name, repr(bucket))

    def test_queues_are_chosen_by_queue_driver(self) -> None:
        """``queue.driver`` chooses the driver of the queues."""
        self.assertIsInstance(services().jobs_queue, DatabaseQueue)
        made = services(queue={"driver": "memory", "events_url": "http://q/1/events"})
        for queue in (made.jobs_queue, made.results_queue):
            self.assertIsInstance(queue, MemoryQueue)
            self.assertIs(made._dead_letters("dead", None, queue), queue.dead)
        self.assertIsInstance(made.events_queue, DatabaseQueue)
        urls = {"jobs_url": "http://q/1/jobs", "results_url": "http://q/1/results"}
        made = services(queue={"driver": "sqs", **urls})
        self.assertIsInstance(made.jobs_queue, SqsQueue)
        self.assertIsInstance(made.results_queue, SqsQueue)
        self.assertIsNone(made.dead_jobs_queue)

    def test_a_required_queue_without_a_url_is_an_error(self) -> None:
        """With SQS, a jobs queue without a URL is an error that names the setting."""
        error = self.assertRaises(ConfigError, lambda: services(queue={"driver": "sqs"}).jobs_queue)
        self.assertEqual(str(error), "queue.jobs_url: must be set")

    def test_optional_queues_without_a_url_are_none(self) -> None:
        """The events and updates queues exist only if they have a URL, with either driver."""
        made = services()
        self.assertIsNone(made.events_queue)
        self.assertIsNone(made.updates_queue)

    def test_dead_letters_are_read_where_the_database_queue_puts_them(self) -> None:
        """The dead letters of a renamed queue in the database are found under its name."""
        for config in ({}, {"jobs_url": "http://q/1/j", "results_url": "http://q/1/r"}):
            made = services(queue=config)
            for queue, dead in (
                (made.jobs_queue, made.dead_jobs_queue),
                (made.results_queue, made.dead_results_queue),
            ):
                assert isinstance(queue, DatabaseQueue)
                assert dead is not None
                self.assertEqual(dead.name, queue.dead.name)


class GraphTests(SynchronousTestCase):
    """How the services of a process depend on each other."""

    def test_each_service_is_made_once(self) -> None:
        """Every user of a service gets the same one."""
        made = services()
        self.assertIs(made.selection, made.selection)
        self.assertEqual(names(made).count("database"), 1)

    def test_services_start_after_those_they_use(self) -> None:
        """A service joins the stack after the services that it uses."""
        made = services(storage={"driver": "s3"})
        _ = made.private_bucket
        self.assertEqual(names(made), ["files", "AwsClient"])

    def test_a_given_driver_is_used_and_not_started(self) -> None:
        """A driver that is passed takes the place of the configured one, which is never made."""
        store = MemoryProfileStore()
        made = Services(Settings(), MemoryReactorClock(), store=store)
        self.assertIs(made.store, store)
        self.assertEqual(names(made), [])

    def test_read_only_services_clean_no_folder(self) -> None:
        """A read-only process does not start the cleaning of a bucket's folder."""
        made = Services(Settings(), MemoryReactorClock(), read_only=True)
        _ = made.private_bucket
        self.assertEqual(names(made), ["files"])


class ImportTests(SynchronousTestCase):
    """What a driver loads."""

    def imported(self, program: str) -> list[str]:
        """The modules that a program has imported in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules, sep='\\n')"],
            capture_output=True,
            check=True,
            cwd=ROOT,
            text=True,
        )
        return done.stdout.split()

    def test_buckets_of_files_do_not_import_botocore(self) -> None:
        """A process that keeps its objects in files does not import botocore."""
        modules = self.imported(
            "from fxprofile.settings.model import Settings\n"
            "from fxprofile.app.services import Services\n"
            "from twisted.internet.testing import MemoryReactorClock\n"
            "Services(Settings(), MemoryReactorClock()).private_bucket"
        )
        self.assertIn("fxprofile.drivers.filesystem.bucket", modules)
        self.assertEqual(
            [m for m in modules if m.startswith(("botocore", "fxprofile.drivers.aws"))], []
        )

    def test_aws_drivers_import_no_reactor(self) -> None:
        """The AWS drivers import neither the reactor nor the blocking half of botocore."""
        modules = self.imported("import fxprofile.drivers.aws.s3, fxprofile.drivers.aws.sqs")
        self.assertIn("botocore.parsers", modules)
        for name in ("twisted.internet.reactor", "botocore.client", "botocore.session"):
            self.assertNotIn(name, modules)

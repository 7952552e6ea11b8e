"""``fxprofile-admin capacity``."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.capacity import machines
from tests.admin.support import AdminCase


class CapacityTests(AdminCase):
    """``capacity`` with a daemon and a crunch pool of its own."""

    settings = {"crunch.processes": 1}  # noqa: RUF012

    async def test_rates_and_machines(self) -> None:
        """The rates of uploads and reads are measured, and the machines for a sign-up rate."""
        arguments = ("capacity", "--seconds=1.5", "--signups-per-second=1000", "--json")
        found = (await self.admin(*arguments, TMPDIR=str(self.directory))).json
        self.assertEqual(found["crunch_processes"], 1)
        for name in ("uploads_per_second", "reads_per_second", "stored_gigabytes_per_day"):
            self.assertGreater(found[name], 0, name)
        self.assertGreater(found["worker_machines"], found["web_machines"])
        self.assertEqual(os.listdir(self.directory), [])

    async def test_photo_that_is_refused(self) -> None:
        """A photo that is no image ends the command with the response to its upload."""
        photo = self.directory / "photo.jpeg"
        photo.write_bytes(b"no image")
        line = await self.error("capacity", "--seconds=1", f"--photo={photo}")
        self.assertIn("/v1/avatar/upload of the trial daemon: 422", line)


class MachinesTests(SynchronousTestCase):
    """The number of machines."""

    def test_reserve_is_planned(self) -> None:
        """Machines are planned at 70 % of what one carries, and combined ones share the load."""
        plan = machines(signups=7, reads=10, upload_rate=10, read_rate=200)
        needed = ("worker_machines", "web_machines", "combined_machines")
        self.assertEqual([plan[name] for name in needed], [1, 1, 2])
        plan = machines(signups=700, reads=10, upload_rate=10, read_rate=1000)
        self.assertEqual([plan[name] for name in needed], [100, 10, 110])

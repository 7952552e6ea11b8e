"""``provision`` and ``doctor`` on S3 servers other than AWS, without TLS."""

from __future__ import annotations

import os
from typing import Any

from tests.admin.support import AdminCase
from tests.support.servers import moto, s3rver, stores


class StoreTests(AdminCase):
    """Commands that look at S3."""

    def use(self, server: Any, keys: Any) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            self.addCleanup(os.environ.pop, name, None)
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = keys
        self.settings = {"storage.driver": "s3", "storage.endpoint_url": server.url}

    async def bucket_findings(self, *arguments: str, status: int = 0) -> list[Any]:
        """Return the findings of the doctor about buckets."""
        ran = await self.admin("doctor", "--json", "--role=combined", *arguments, status=status)
        return [found for found in ran.json["findings"] if found["name"].endswith(" bucket")]

    async def test_what_a_server_lacks_is_a_warning_and_the_rest_is_provisioned(self) -> None:
        """
        Provision warns of lifecycle rules that a server lacks, and creates buckets in which
        the doctor finds no fault.
        """
        moto_keys = (moto.ACCESS_KEY, moto.SECRET_KEY)
        for server, keys in (
            (stores.rclone, moto_keys),
            (stores.juicefs, moto_keys),
            (s3rver.without_tls, (s3rver.ACCESS_KEY, s3rver.SECRET_KEY)),
        ):
            self.use(server, keys)
            ran = await self.admin("provision", "--only=storage", "--yes", "--json")
            lacking = {s["what"] for s in ran.json["steps"] if s["action"] == "warning"}
            for which in ("private", "public"):
                self.assertIn(f"lifecycle of fxprofile-{which}", lacking)
            levels = [finding["level"] for finding in await self.bucket_findings()]
            self.assertEqual(levels, ["ok", "ok"])

    async def test_the_doctor_names_a_payload_that_works(self) -> None:
        """If uploads fail with the configured payload, the doctor names one that works."""
        self.use(s3rver.without_tls, (s3rver.ACCESS_KEY, s3rver.SECRET_KEY))
        await self.admin("provision", "--only=storage", "--yes")
        found = await self.bucket_findings("--set=storage.payload=trailer", status=1)
        self.assertEqual([finding["level"] for finding in found], ["problem", "problem"])
        self.assertIn("a different digest", found[0]["text"])
        self.assertEqual(found[0]["advice"], 'set storage.payload = "unsigned", which works')

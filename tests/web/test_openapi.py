"""The description of the API, and whether the API keeps to it."""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
from pathlib import Path

from openapi_spec_validator import validate
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from fxprofile import errors
from fxprofile.errors import ApiError
from tests.daemon import Daemon
from tests.web.service import ApiCase


class DocumentTests(ApiCase):
    """``/openapi.json``."""

    async def test_valid(self) -> None:
        """It is a valid document of OpenAPI 3.1, which may be kept for an hour."""
        reply = await self.ask("GET", "/openapi.json", token=None)
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header("Cache-Control"), "public, max-age=3600")
        self.assertEqual(reply.json["openapi"], "3.1.0")
        validate(reply.json)

    async def test_routes(self) -> None:
        """It has every route that there is, and no other."""
        reply = await self.ask("GET", "/openapi.json", token=None)
        described = {
            (method.upper(), path)
            for path, operations in reply.json["paths"].items()
            for method in operations
        }
        there = {(method, re.sub(r"<(\w+)>", r"{\1}", path)) for method, path in self.api.routes}
        self.assertEqual(described, there)
        self.assertEqual(len(self.api.routes), len(there))


class ReferenceTests(ApiCase):
    """``docs/api.md``."""

    def setUp(self) -> None:
        super().setUp()
        self.text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()

    def test_endpoints(self) -> None:
        """Each endpoint has a row, and each row is an endpoint."""
        rows = set(re.findall(r"^\| `(GET|POST|DELETE) (/\S*)`", self.text, re.MULTILINE))
        there = {(method, re.sub(r"<(\w+)>", r"{\1}", path)) for method, path in self.api.routes}
        self.assertEqual(rows, there)

    def test_errors(self) -> None:
        """Each status and errno that the code can answer is in the table, and no other."""
        rows = {
            (int(code), int(errno))
            for code, errno in re.findall(r"^\| (\d{3}) \| (\d{3}) \|", self.text, re.MULTILINE)
        }
        there = {
            (kind.code, kind.errno)
            for kind in vars(errors).values()
            if isinstance(kind, type) and issubclass(kind, ApiError) and hasattr(kind, "errno")
        }
        self.assertEqual(rows, there)


class LiveTests(TestCase):
    """A daemon that is asked everything that its description allows, and more."""

    timeout = 540

    async def test_keeps_to_it(self) -> None:
        """No 5xx, no status or body that is not described, whatever is asked."""
        directory = Path(tempfile.mkdtemp(prefix="fxprofile-openapi-"))
        daemon = Daemon(
            settings={"uploads.per_hour": 0, "uploads.wait": 1, "secret_bearer_token": "s3cret"}
        )
        async with daemon:
            out, err, status = await getProcessOutputAndValue(
                sys.executable,
                [
                    str(Path(sysconfig.get_path("scripts"), "schemathesis")),
                    *("run", f"{daemon.web_url}/openapi.json"),
                    *("--header", "Authorization: Bearer alice"),
                    *("--phases", "examples,coverage,fuzzing"),
                    *("--max-examples", "25"),
                    *("--seed", "20140401"),
                    *("--checks", "all"),
                    *("--exclude-checks", "ignored_auth,positive_data_acceptance"),
                    *("--request-timeout", "30"),
                    "--no-color",
                ],
                env={"PATH": "/usr/bin:/bin", "HOME": str(directory)},
                path=str(directory),
            )
        self.assertEqual(status, 0, out.decode() + err.decode())

"""The OpenAPI document, and whether the API conforms to it."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from shutil import rmtree
from typing import Any

import jsonschema
from openapi_spec_validator import validate
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from fxprofile.model import errors
from fxprofile.model.errors import ApiError
from fxprofile.profiles.account_events import EVENTS
from fxprofile.profiles.read import FIELD_SCOPES
from fxprofile.web.openapi import OpenApi
from tests.support.daemon import Daemon
from tests.web import conformance
from tests.web.service import ALICE, ApiCase, account


class DocumentTests(ApiCase):
    """``/openapi.json``."""

    secret = "there-are-all-endpoints"

    async def test_document_is_valid(self) -> None:
        """The document is valid OpenAPI 3.1, and may be cached for an hour."""
        reply = await self.ask("GET", "/openapi.json", token=None)
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header("Cache-Control"), "public, max-age=3600")
        self.assertEqual(reply.json["openapi"], "3.1.0")
        validate(reply.json)

    async def test_contains_every_operation(self) -> None:
        """The document contains each registered operation, under its method and path."""
        paths = (await self.ask("GET", "/openapi.json", token=None)).json["paths"]
        described = {
            operation["operationId"]: (method.upper(), path)
            for path, operations in paths.items()
            for method, operation in operations.items()
        }
        registered = {
            name: (operation.method, template(operation.path))
            for name, operation in self.api.operations.items()
        }
        self.assertEqual(described, registered)

    async def test_names_required_scopes(self) -> None:
        """The document names the scopes that each endpoint requires, and no others."""
        paths = (await self.ask("GET", "/openapi.json", token=None)).json["paths"]
        for operation in self.api.operations.values():
            described = paths[template(operation.path)][operation.method.lower()]
            named = tuple(re.findall("`([^`]+)`", described.get("description", "")))
            self.assertEqual(named, operation.scopes or (), operation.path)
            needs_token = operation.scopes is not None
            self.assertEqual(described["security"] == [{"bearer": []}], needs_token, operation.path)

    def test_operation_is_registered_once(self) -> None:
        """Registering an operation a second time is refused."""
        with self.assertRaisesRegex(ValueError, "GET /openapi.json .* is registered twice"):
            self.api.add(OpenApi(self.api, public_url="http://api.example"))


class ConformanceTests(ApiCase):
    """The check that all tests of the API apply to each response."""

    def check(self, status: int, body: object, path: str = "/v1/uid") -> None:
        conformance.check(self.api, "GET", path, StaticResponse(status, body))

    def test_accepts_documented_responses(self) -> None:
        """A success and an error that are as documented pass."""
        self.check(200, {"uid": ALICE})
        error = {"code": 404, "errno": 101, "error": "Not Found", "message": "x"}
        self.check(404, error)
        self.check(404, error, path="/nothing")

    def test_rejects_undocumented_bodies(self) -> None:
        """A body with a missing, additional or mistyped member fails."""
        for body in ({}, {"uid": ALICE, "more": 1}, {"uid": 1}, [], None):
            self.assertRaises(jsonschema.ValidationError, self.check, 200, body)

    def test_rejects_undocumented_statuses_and_errors(self) -> None:
        """A status, or an errno, that the endpoint does not declare fails."""
        self.assertRaises(AssertionError, self.check, 201, {"uid": ALICE})
        error = {"code": 404, "errno": 106, "error": "Not Found", "message": "x"}
        self.assertRaises(AssertionError, self.check, 404, error)


class StaticResponse:
    """A JSON response that no server sent."""

    def __init__(self, status: int, body: object) -> None:
        self.status = status
        self.json = body
        self.body = json.dumps(body).encode()

    def header(self, name: str) -> str | None:
        return {"Content-Type": "application/json; charset=utf-8"}.get(name)


def template(path: str) -> str:
    """Return a path of werkzeug in the notation of OpenAPI."""
    return re.sub(r"<(\w+)>", r"{\1}", path)


class ExampleTests(ApiCase):
    """The examples in the document."""

    async def setUp(self) -> None:
        super().setUp()
        self.document = (await self.ask("GET", "/openapi.json", token=None)).json
        self.operations = [
            (f"{method.upper()} {path}", operation)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
        ]

    def examples(self, where: str, content: Any) -> list[Any]:
        """Return each example of some content, validated against its schema."""
        named = content.get("examples", {"": {"value": content.get("example")}})
        values = [example["value"] for example in named.values()]
        schema = {**content["schema"], "components": self.document["components"]}
        for value in values:
            self.assertIsNotNone(value, f"{where} has no example")
            jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
        return values

    def test_bodies_have_valid_examples(self) -> None:
        """Every JSON body has an example, which is valid against its schema."""
        for where, operation in self.operations:
            contents = [response.get("content", {}) for response in operation["responses"].values()]
            contents.append(operation.get("requestBody", {}).get("content", {}))
            for content in contents:
                if "application/json" in content:
                    self.examples(where, content["application/json"])

    def test_parameters_have_valid_examples(self) -> None:
        """Every parameter has an example, which is valid against its schema."""
        for where, operation in self.operations:
            for parameter in operation.get("parameters", ()):
                self.examples(f"{where}: {parameter['name']}", parameter)

    def test_every_error_has_an_example(self) -> None:
        """Every error class of the code is an example of its status."""
        told = set()
        for where, operation in self.operations:
            for status, response in operation["responses"].items():
                content = response.get("content", {}).get("application/json", {})
                if content.get("schema") == {"$ref": "#/components/schemas/Error"}:
                    for error in self.examples(where, content):
                        self.assertEqual(str(error["code"]), status, where)
                        told.add((error["code"], error["errno"]))
        self.assertEqual(told, EVERY_ERROR)

    async def test_error_examples_are_real(self) -> None:
        """The example of an error is the response that a client gets, with its headers."""
        responses = dict(self.operations)["GET /v1/uid"]["responses"]
        for token, status in ((None, "401"), ("email", "403")):
            reply = await self.ask("GET", "/v1/uid", token=token)
            (example,) = self.examples(status, responses[status]["content"]["application/json"])
            self.assertEqual(reply.json, example)
            for name, header in responses[status].get("headers", {}).items():
                self.assertEqual(reply.header(name), header["example"])

    def accounts(self) -> Any:
        return (*super().accounts(), account("email", "e" * 32, "email"))


#: The status and the errno of every error that there is.
EVERY_ERROR = {
    (kind.code, kind.errno)
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ApiError) and hasattr(kind, "errno")
}


class ReferenceTests(ApiCase):
    """``docs/api.md``."""

    secret = "there-are-all-endpoints"

    def setUp(self) -> None:
        super().setUp()
        self.text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()

    def test_reference_lists_endpoints(self) -> None:
        """Each endpoint has a row, and each row is an endpoint."""
        rows = set(re.findall(r"^\| `(GET|POST|DELETE) (/\S*)`", self.text, re.MULTILINE))
        operations = self.api.operations.values()
        self.assertEqual(rows, {(each.method, template(each.path)) for each in operations})

    async def test_reference_lists_statuses(self) -> None:
        """The tables list exactly the statuses of the document."""
        rows = set(re.findall(r"^\| (\d{3}) \|", self.text, re.MULTILINE))
        document = (await self.ask("GET", "/openapi.json", token=None)).json
        described = {
            status
            for operations in document["paths"].values()
            for operation in operations.values()
            for status in operation["responses"]
        }
        self.assertEqual(rows, described)

    def test_reference_lists_scopes(self) -> None:
        """The tables name the scopes of each field and endpoint."""
        fields = dict(
            re.findall(r"^\| (`[a-zA-Z`, ]+`) \| (`[a-z_:` or]+|any) \|$", self.text, re.M)
        )
        told = {
            field: tuple(re.findall("`([a-z_:]+)`", scopes))
            for names, scopes in fields.items()
            for field in re.findall("[a-zA-Z]+", names)
        }
        self.assertEqual(told, FIELD_SCOPES)
        for operation in self.api.operations.values():
            name = re.escape(f"{operation.method} {template(operation.path)}")
            (row,) = re.findall(rf"^\| `{name}` \| ([^|]*) \|", self.text, re.M)
            self.assertEqual(tuple(re.findall("`([^`]+)`", row)), operation.scopes or (), row)

    def test_reference_lists_events(self) -> None:
        """The table of account events lists exactly those that are handled."""
        table = self.text[self.text.index("| event |") :].split("\n\n")[0]
        rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        self.assertEqual(set(re.findall(r"\w+", " ".join(rows))), set(EVENTS))

    def test_reference_lists_errors(self) -> None:
        """The table of errors lists exactly the statuses and errnos of the code."""
        rows = {
            (int(code), int(errno))
            for code, errno in re.findall(r"^\| (\d{3}) \| (\d{3}) \|", self.text, re.MULTILINE)
        }
        self.assertEqual(rows, EVERY_ERROR)


class LiveTests(TestCase):
    """A running service, tested by schemathesis from its document."""

    timeout = 540

    async def test_service_conforms_to_its_document(self) -> None:
        """
        No request that the document allows, or nearly allows, gets a 5xx or an undocumented
        response.
        """
        daemon = Daemon(
            settings={
                "uploads.per_hour": 0,
                "limits.writes_per_minute": 0,
                "uploads.wait": 1,
                "secret_bearer_token": "s3cret",
            },
            preloaded=True,
        )
        of_servers = "/v1/(cache|_display_name)/"
        async with daemon:
            await self.ask_everything(daemon, "alice", "--exclude-path-regex", of_servers)
            await self.ask_everything(daemon, "s3cret", "--include-path-regex", of_servers)

    async def ask_everything(self, daemon: Daemon, token: str, *which: str) -> None:
        directory = Path(tempfile.mkdtemp(prefix="fxprofile-openapi-"))
        self.addCleanup(rmtree, directory, ignore_errors=True)
        out, err, status = await getProcessOutputAndValue(
            sys.executable,
            [
                str(Path(sysconfig.get_path("scripts"), "schemathesis")),
                *("run", f"{daemon.web_url}/openapi.json"),
                *("--header", f"Authorization: Bearer {token}"),
                *which,
                *("--phases", "examples,coverage,fuzzing"),
                *("--max-examples", "15"),
                *("--seed", "20140401"),
                *("--checks", "all"),
                # Not each text is a picture, nor each uid that of a user.
                *("--exclude-checks", "positive_data_acceptance"),
                *("--request-timeout", "30"),
                "--no-color",
            ],
            env={"PATH": "/usr/bin:/bin", "HOME": str(directory)},
            path=str(directory),
        )
        self.assertEqual(status, 0, out.decode() + err.decode())

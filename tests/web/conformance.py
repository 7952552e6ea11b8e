"""Whether a response is one that ``/openapi.json`` describes."""

from __future__ import annotations

import re
from typing import Any, Protocol

from jsonschema import Draft202012Validator

from fxprofile.web.api import Api
from fxprofile.web.openapi import document

_documents: dict[tuple[str, ...], Any] = {}


class Response(Protocol):
    """A response, as the test harness reads it."""

    status: int
    body: bytes
    json: Any

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""


def check(api: Api, method: str, path: str, response: Response) -> None:
    """
    Compare a response with the description of the API.

    :raises AssertionError: if its status, its error number or its media type is not declared
        for this endpoint.
    :raises jsonschema.ValidationError: if its body is not as its schema says.
    """
    if method == "OPTIONS":
        # CORS preflights are no operations.
        return
    described = _described(api)
    operation = _operation(described, method, path)
    where = f"{method} {path}: {response.status}"
    if operation is None:
        content: Any = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    else:
        declared = operation["responses"].get(str(response.status))
        assert declared is not None, f"{where} is not declared"
        content = declared.get("content")
    if content is None or method == "HEAD":
        assert not response.body, f"{where} must not have a body"
        return
    media_type = (response.header("Content-Type") or "").partition(";")[0]
    assert media_type in content, f"{where} is {media_type}"
    if media_type == "application/json":
        schema = {**content[media_type]["schema"], "components": described["components"]}
        Draft202012Validator(schema).validate(response.json)
        errors = [e["value"]["errno"] for e in _error_examples(content[media_type])]
        if errors:
            assert response.json["errno"] in errors, f"{where}: undeclared errno"


def _error_examples(content: Any) -> list[Any]:
    is_error = content["schema"] == {"$ref": "#/components/schemas/Error"}
    return list(content.get("examples", {}).values()) if is_error else []


def _operation(described: Any, method: str, path: str) -> Any:
    path = path.partition("?")[0]
    name = "get" if method == "HEAD" else method.lower()
    # A literal path is preferred to a template, as in the routing.
    for template, operations in sorted(described["paths"].items(), key=lambda item: "{" in item[0]):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return operations.get(name)
    return None


def _described(api: Api) -> Any:
    key = tuple(sorted(api.operations))
    if key not in _documents:
        _documents[key] = document(api.operations.values(), "http://api.example")
    return _documents[key]

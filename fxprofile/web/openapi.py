"""
``GET /openapi.json``: the registered endpoints as an OpenAPI 3.1 document
(https://spec.openapis.org/oas/v3.1.0).

No library builds it: apispec, the general one, collects operations that are already written
as OpenAPI dictionaries, and those dictionaries are what this module makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from fxprofile import __version__
from fxprofile.model.errors import ApiError, MethodNotAllowed, TooManyRequests, UnprocessableImage
from fxprofile.web.api import MAX_JSON, Api, ApiRequest, ApiResponse, error_response
from fxprofile.web.models import ErrorBody, OpenApiDocument
from fxprofile.web.operations import Operation

Json = dict[str, Any]

_COMPONENTS: Final = "#/components/schemas/"

_ERROR_HEADERS: Final = {
    "WWW-Authenticate": "The authentication scheme that is required.",
    "Allow": "The methods that this path supports.",
    "Retry-After": "Seconds to wait before the next attempt.",
}


class OpenApi:
    """
    The endpoint of the document.

    :param api: the endpoints to describe.
    :param public_url: the setting ``web.public_url``.
    """

    def __init__(self, api: Api, *, public_url: str) -> None:
        self._api = api
        self._public_url = public_url

    @Operation("GET /openapi.json")
    async def get_open_api(self, call: ApiRequest) -> ApiResponse[OpenApiDocument]:
        """Return this document."""
        headers = {
            "Cache-Control": "public, max-age=3600",
            "Content-Type": "application/json; charset=utf-8",
        }
        return ApiResponse(200, self._encoded, headers)

    @cached_property
    def _encoded(self) -> bytes:
        described = document(self._api.operations.values(), self._public_url)
        return json.dumps(described, ensure_ascii=False).encode()


def document(operations: Iterable[Operation], public_url: str) -> Json:
    """
    Describe an API.

    :param operations: its endpoints.
    :param public_url: the setting ``web.public_url``.
    """
    builder = _Builder()
    for operation in operations:
        if operation.documented:
            builder.add(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Firefox Accounts profile service",
            "version": __version__,
            "license": {"name": "MPL-2.0", "identifier": "MPL-2.0"},
            "description": "Every response has an `X-Request-Id`, which is also in the log.",
        },
        "servers": [{"url": public_url}],
        "components": {
            "schemas": builder.schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An OAuth token."},
                "secret": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token that the auth server shares with this service.",
                },
            },
        },
        "paths": builder.paths,
    }


class _Schemas(GenerateJsonSchema):
    """Names the schemas as clients know them, and omits titles that repeat a field's name."""

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Body")

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


class _Builder:
    def __init__(self) -> None:
        self.paths: Json = {}
        self.schemas: Json = {}
        # By the identity of the type: some types of pydantic are not hashable.
        self._known: dict[int, Json] = {}

    def add(self, operation: Operation) -> None:
        described: Json = {
            "operationId": operation.id,
            "summary": operation.summary,
            "security": [],
            "responses": self._errors(operation.all_errors) | self._responses(operation),
            "parameters": self._parameters(operation),
        }
        if operation.scopes is not None:
            described["security"] = [{"bearer": []}]
            scopes = ", ".join(f"`{scope}`" for scope in operation.scopes)
            described["description"] = (
                f"Needs one of the scopes {scopes}."
                if scopes
                else "Needs a scope that allows at least one field."
            )
        if operation.secret:
            described["security"] = [{"secret": []}]
        if operation.body is not None:
            content = self._content(operation.body)
            described["requestBody"] = {
                "required": True,
                "description": f"At most {MAX_JSON} bytes of UTF-8.",
                "content": {"application/json": content},
            }
        if operation.accepts:
            binary = {"schema": {"type": "string", "format": "binary"}}
            content = dict.fromkeys(operation.accepts, binary)
            described["requestBody"] = {"required": True, "content": content}
        path = re.sub(r"<(\w+)>", r"{\1}", operation.path)
        self.paths.setdefault(path, {})[operation.method.lower()] = described

    def _schema(self, kind: Any) -> Json:
        """Return the schema of a type, for use in the document."""
        if id(kind) not in self._known:
            self._known[id(kind)] = self._generate(kind)
        return self._known[id(kind)]

    def _generate(self, kind: Any) -> Json:
        schemas, shared = TypeAdapter.json_schemas(
            [("it", "validation", TypeAdapter(kind))],
            ref_template=f"{_COMPONENTS}{{model}}",
            schema_generator=_Schemas,
        )
        for name, schema in shared.get("$defs", {}).items():
            schema.pop("title")
            self.schemas[name] = schema
        return schemas["it", "validation"]

    def _resolved(self, schema: Json) -> Json:
        return self.schemas.get(schema.get("$ref", "").removeprefix(_COMPONENTS), schema)

    def _content(self, kind: Any, examples: tuple[object, ...] = ()) -> Json:
        schema = self._schema(kind)
        examples = examples or tuple(self._resolved(schema).get("examples", ()))
        if len(examples) == 1:
            return {"schema": schema, "example": examples[0]}
        numbered = {str(n): {"value": value} for n, value in enumerate(examples, 1)}
        return {"schema": schema, "examples": numbered}

    def _responses(self, operation: Operation) -> Json:
        schema = self._resolved(self._schema(operation.response))
        headers = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in operation.headers.items()
        }
        descriptions = {operation.status: schema.get("description", ""), **operation.responses}
        responses: Json = {}
        for status, description in descriptions.items():
            responses[str(status)] = {"description": description}
            if status in (204, 304):
                continue
            media_type, *text_types = operation.produces
            content: Json = {name: {"schema": {"type": "string"}} for name in text_types}
            content[media_type] = self._content(
                operation.response, operation.examples.get(status, ())
            )
            responses[str(status)]["content"] = content
            if headers:
                responses[str(status)]["headers"] = headers
        return responses

    def _parameters(self, operation: Operation) -> list[Json]:
        parameters = []
        for location, types in (
            ("path", operation.path_parameters),
            ("header", operation.parameters),
        ):
            for name, kind in types.items():
                schema = self._schema(kind)
                parameters.append(
                    {
                        "name": name,
                        "in": location,
                        "required": location == "path",
                        "description": schema["description"],
                        "example": schema["examples"][0],
                        "schema": schema,
                    }
                )
        return parameters

    def _errors(self, kinds: Iterable[type[ApiError]]) -> Json:
        """Describe the error responses: one for each status, with an example of each errno."""
        responses: Json = {}
        for error in sorted(map(_sample, kinds), key=lambda error: (error.code, error.errno)):
            content = {"schema": self._schema(ErrorBody), "examples": {}}
            response = responses.setdefault(
                str(error.code), {"description": "", "content": {"application/json": content}}
            )
            text = f"{error.errno}: {error.message}"
            response["description"] = f"{response['description']}\n{text}".strip()
            response["content"]["application/json"]["examples"][type(error).__name__] = {
                "summary": error.message,
                "value": error_response(error).body,
            }
            for name, value in error.headers.items():
                response.setdefault("headers", {})[name] = {
                    "description": _ERROR_HEADERS[name],
                    "required": True,
                    "schema": {"type": "string"},
                    "example": value,
                }
        return responses


def _sample(kind: type[ApiError]) -> ApiError:
    """Return an error of this kind, as a client may get it."""
    if issubclass(kind, MethodNotAllowed):
        return kind(headers={"Allow": "GET, HEAD"})
    if issubclass(kind, TooManyRequests):
        return kind(retry_after=60)
    if issubclass(kind, UnprocessableImage):
        return kind("corrupt")
    return kind()

"""
``GET /openapi.json``: the registered endpoints as an OpenAPI 3.1 document
(https://spec.openapis.org/oas/v3.1.0).

No library builds it: apispec, the general one, collects operations that are already written
as OpenAPI dictionaries, and those dictionaries are what this module makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from fxprofile import __version__
from fxprofile.model.errors import ApiError, MethodNotAllowed, TooManyRequests, UnprocessableImage
from fxprofile.web.api import MAX_JSON, Api, ApiRequest, ApiResponse, error_response
from fxprofile.web.errors import unprocessable
from fxprofile.web.models import ErrorBody
from fxprofile.web.operations import Operation, ParameterSpec, ResponseSpec

Json = dict[str, Any]

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

    @Operation(
        "GET",
        "/openapi.json",
        "Return this document",
        {200: ResponseSpec("The document.", dict[str, object], ({"openapi": "3.1.0"},))},
    )
    async def get_open_api(self, call: ApiRequest) -> ApiResponse:
        """Answer ``GET /openapi.json``."""
        headers = {
            "Cache-Control": "public, max-age=3600",
            "Content-Type": "application/json; charset=utf-8",
        }
        return ApiResponse(200, self._body, headers)

    @cached_property
    def _body(self) -> bytes:
        described = document(self._api.operations, self._public_url)
        return json.dumps(described, ensure_ascii=False).encode()


def document(operations: Mapping[str, Operation], public_url: str) -> Json:
    """
    Describe an API.

    :param operations: its endpoints, by operation id.
    :param public_url: the setting ``web.public_url``.
    """
    builder = _Builder()
    for operation_id, operation in operations.items():
        if operation.documented:
            builder.add(operation_id, operation)
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

    def add(self, operation_id: str, operation: Operation) -> None:
        described: Json = {
            "operationId": operation_id,
            "summary": operation.summary,
            "security": [],
            "responses": {
                **self._errors(operation.all_errors),
                **{str(s): self._response(spec) for s, spec in operation.responses.items()},
            },
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
        if operation.parameters:
            described["parameters"] = [self._parameter(spec) for spec in operation.parameters]
        if operation.body is not None:
            described["requestBody"] = self._json_body(operation.body)
        if operation.media_types:
            binary = {"schema": {"type": "string", "format": "binary"}}
            content = dict.fromkeys(operation.media_types, binary)
            described["requestBody"] = {"required": True, "content": content}
        path = re.sub(r"<(\w+)>", r"{\1}", operation.path)
        self.paths.setdefault(path, {})[operation.method.lower()] = described

    def _schema(self, kind: Any) -> Json:
        schemas, shared = TypeAdapter.json_schemas(
            [("it", "validation", TypeAdapter(kind))],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Schemas,
        )
        for name, schema in shared.get("$defs", {}).items():
            schema.pop("title")
            self.schemas[name] = schema
        return schemas["it", "validation"]

    def _response(self, spec: ResponseSpec) -> Json:
        described: Json = {"description": spec.description}
        if spec.body is not None:
            content: Json = {"schema": self._schema(spec.body)}
            if len(spec.examples) == 1:
                content["example"] = spec.examples[0]
            else:
                numbered = enumerate(spec.examples, 1)
                content["examples"] = {str(n): {"value": value} for n, value in numbered}
            text = {"schema": {"type": "string"}}
            described["content"] = {
                spec.media_type: content,
                **dict.fromkeys(spec.text_types, text),
            }
        if spec.headers:
            described["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in spec.headers.items()
            }
        return described

    def _parameter(self, spec: ParameterSpec) -> Json:
        return {
            "name": spec.name,
            "in": spec.location,
            "required": spec.location == "path",
            "description": spec.description,
            "schema": self._schema(spec.type),
            "example": spec.example,
        }

    def _json_body(self, model: type[BaseModel]) -> Json:
        fields = model.model_fields.items()
        example = {info.alias or name: (info.examples or [None])[0] for name, info in fields}
        return {
            "required": True,
            "description": f"At most {MAX_JSON} bytes of UTF-8.",
            "content": {"application/json": {"schema": self._schema(model), "example": example}},
        }

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
        return unprocessable("corrupt")
    return kind()

"""
``GET /openapi.json``: the registered endpoints as an OpenAPI 3.1 document
(https://spec.openapis.org/oas/v3.1.0).

No library builds it: apispec, the general one, collects operations that are already written
as OpenAPI dictionaries, and those dictionaries are what this module makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, Final

import attrs
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from fxprofile import __version__
from fxprofile.model.errors import ApiError, MethodNotAllowed, TooManyRequests, UnprocessableImage
from fxprofile.web.api import MAX_FIELDS, MAX_FORM, MAX_JSON, Api, ApiRequest, ApiResponse
from fxprofile.web.models import ErrorBody, OpenApiDocument, TokenForm
from fxprofile.web.operations import Operation

Json = dict[str, Any]

_COMPONENTS: Final = "#/components/schemas/"

_ERROR_HEADERS: Final = {
    "WWW-Authenticate": "The authentication scheme that is required.",
    "Allow": "The methods that this path supports.",
    "Retry-After": "Seconds to wait before the next attempt.",
}

#: What an example of an error is made with.
_ERROR_ARGUMENTS: Final[dict[type[ApiError], dict[str, Any]]] = {
    MethodNotAllowed: {"headers": {"Allow": "GET, HEAD"}},
    TooManyRequests: {"retry_after": 60},
    UnprocessableImage: {"reason": "corrupt"},
}


@attrs.define(eq=False, slots=False)
class OpenApi:
    """
    The endpoint of the document.

    :param api: the endpoints to describe.
    :param public_url: the setting ``web.public_url``.
    """

    _api: Api
    _public_url: str = attrs.field(kw_only=True)

    @Operation("GET /openapi.json")
    async def get_open_api(self, call: ApiRequest) -> ApiResponse[OpenApiDocument]:
        """Return this document."""
        headers = {
            "Cache-Control": "public, max-age=3600",
            "Content-Type": "application/json; charset=utf-8",
        }
        return ApiResponse(200, self.encoded, headers)

    @cached_property
    def encoded(self) -> bytes:
        """The document as JSON, built when it is first read."""
        described = document(self._api.operations.values(), self._public_url)
        return json.dumps(described, ensure_ascii=False).encode()


def document(operations: Iterable[Operation], public_url: str) -> Json:
    """
    Describe an API.

    :param operations: its endpoints.
    :param public_url: the setting ``web.public_url``.
    """
    documented = [operation for operation in operations if operation.documented]
    builder, paths = _Builder(documented), Json()
    for operation in documented:
        path = re.sub(r"<(\w+)>", r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = builder.describe(operation)
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
        "paths": paths,
    }


class _Schemas(GenerateJsonSchema):
    """Names the schemas as clients know them, and omits titles that repeat a field's name."""

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Body")

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


class _Builder:
    """
    Describes operations.

    :ivar schemas: the schemas that they share, by name.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        kinds: list[Any] = [ErrorBody, TokenForm]
        for operation in operations:
            kinds += [operation.response, *operation.path_parameters.values()]
            kinds += operation.parameters.values()
            if operation.body is not None:
                kinds.append(operation.body)
        # By the identity of the type: some types of pydantic are not hashable.
        self._types, shared = TypeAdapter.json_schemas(
            [(id(kind), "validation", TypeAdapter(kind)) for kind in kinds],
            ref_template=f"{_COMPONENTS}{{model}}",
            schema_generator=_Schemas,
        )
        self.schemas: Json = shared["$defs"]
        for schema in self.schemas.values():
            schema.pop("title")

    def describe(self, operation: Operation) -> Json:
        """Return the Operation Object of an operation."""
        scheme = "secret" if operation.secret else "bearer"
        is_open = operation.scopes is None and not operation.secret
        described: Json = {
            "operationId": operation.id,
            "summary": operation.summary,
            "security": [] if is_open else [{scheme: []}],
            "responses": self._errors(operation.all_errors) | self._responses(operation),
            "parameters": self._parameters(operation),
        }
        if operation.scopes is not None:
            scopes = ", ".join(f"`{scope}`" for scope in operation.scopes)
            described["description"] = (
                f"Needs one of the scopes {scopes}."
                if scopes
                else "Needs a scope that allows at least one field."
            )
        if operation.body is not None:
            described["requestBody"] = {
                "required": True,
                "description": f"At most {MAX_JSON} bytes of UTF-8.",
                "content": {"application/json": self._content(operation.body)},
            }
        if operation.token_form:
            described["requestBody"] = {
                "required": False,
                "description": f"At most {MAX_FORM} bytes, and {MAX_FIELDS} fields.",
                "content": {"application/x-www-form-urlencoded": self._content(TokenForm)},
            }
        if operation.accepts:
            binary = {"schema": {"type": "string", "format": "binary"}}
            content = dict.fromkeys(operation.accepts, binary)
            described["requestBody"] = {"required": True, "content": content}
        return described

    def _schema(self, kind: Any) -> Json:
        """Return the schema of a type, for use in the document."""
        return self._types[id(kind), "validation"]

    def _resolved(self, kind: Any) -> Json:
        schema = self._schema(kind)
        return self.schemas.get(schema.get("$ref", "").removeprefix(_COMPONENTS), schema)

    def _content(self, kind: Any, examples: Collection[object] = ()) -> Json:
        examples = examples or self._resolved(kind).get("examples", ())
        if len(examples) == 1:
            return {"schema": self._schema(kind), "example": next(iter(examples))}
        numbered = {str(n): {"value": value} for n, value in enumerate(examples, 1)}
        return {"schema": self._schema(kind), "examples": numbered}

    def _responses(self, operation: Operation) -> Json:
        success = {operation.status: self._resolved(operation.response).get("description", "")}
        headers = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in operation.headers.items()
        }
        media_type, *text_types = operation.produces
        responses: Json = {}
        for status, description in {**success, **operation.responses}.items():
            responses[str(status)] = response = {"description": description}
            if status in (204, 304):
                continue
            content: Json = {name: {"schema": {"type": "string"}} for name in text_types}
            examples = operation.examples.get(status, ())
            content[media_type] = self._content(operation.response, examples)
            response |= (
                {"content": content, "headers": headers} if headers else {"content": content}
            )
        return responses

    def _parameters(self, operation: Operation) -> list[Json]:
        located = [("path", name, kind) for name, kind in operation.path_parameters.items()]
        located += [("header", name, kind) for name, kind in operation.parameters.items()]
        return [
            {
                "name": name,
                "in": location,
                "required": location == "path",
                "description": self._schema(kind)["description"],
                "example": self._schema(kind)["examples"][0],
                "schema": self._schema(kind),
            }
            for location, name, kind in located
        ]

    def _errors(self, kinds: Iterable[type[ApiError]]) -> Json:
        """Describe the error responses: one for each status, with an example of each errno."""
        responses: Json = {}
        samples = [kind(**_ERROR_ARGUMENTS.get(kind, {})) for kind in kinds]
        for error in sorted(samples, key=lambda error: (error.code, error.errno)):
            content = {"schema": self._schema(ErrorBody), "examples": {}}
            response = responses.setdefault(
                str(error.code), {"description": "", "content": {"application/json": content}}
            )
            text = f"{error.errno}: {error.message}"
            response["description"] = f"{response['description']}\n{text}".strip()
            response["content"]["application/json"]["examples"][type(error).__name__] = {
                "summary": error.message,
                "value": error.body,
            }
            for name, value in error.headers.items():
                response.setdefault("headers", {})[name] = {
                    "description": _ERROR_HEADERS[name],
                    "required": True,
                    "schema": {"type": "string"},
                    "example": value,
                }
        return responses

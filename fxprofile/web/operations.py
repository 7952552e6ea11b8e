"""
The declaration of an endpoint: the one place that drives its routing, its authorization, the
validation of its body, and its description in ``/openapi.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

from fxprofile.model.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    PayloadTooLarge,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
)

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class ResponseSpec:
    """
    A successful response.

    :ivar body: the type of the body, for pydantic to describe; None for no body.
    :ivar examples: bodies.
    :ivar headers: descriptions by header name.
    :ivar text_types: further media types in which the body may come as text.
    """

    description: str
    body: object = None
    examples: tuple[object, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    text_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParameterSpec:
    """
    A parameter of the path, or a request header.

    :ivar location: ``path`` or ``header``.
    :ivar type: the type of its value, for pydantic to describe.
    """

    name: str
    location: str
    description: str
    example: str
    type: object = str


@dataclass(frozen=True)
class Operation:
    """
    An endpoint; it decorates the method that handles it.

    :ivar path: in werkzeug's notation.
    :ivar responses: successful responses by status.
    :ivar errors: errors that can occur besides those of every endpoint, of a token, and of a
        JSON body.
    :ivar scopes: a token needs one of them; empty if any valid token will do, None if no
        token is needed.
    :ivar secret: whether the secret bearer token is needed.
    :ivar body: the model of a JSON body, which the handler gets as its argument ``body``.
    :ivar media_types: the types of any other body, which the handler reads itself.
    :ivar documented: whether ``/openapi.json`` contains it.
    """

    method: str
    path: str
    summary: str
    responses: Mapping[int, ResponseSpec]
    errors: tuple[type[ApiError], ...] = ()
    scopes: tuple[str, ...] | None = None
    secret: bool = False
    parameters: tuple[ParameterSpec, ...] = ()
    body: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ()
    documented: bool = True

    def __call__(self, handler: F) -> F:
        """Mark a method as the handler; :meth:`fxprofile.web.api.Api.add` registers it."""
        handler.operation = self  # type: ignore[attr-defined]
        return handler

    @property
    def all_errors(self) -> frozenset[type[ApiError]]:
        """Every error that can occur."""
        kinds: set[type[ApiError]] = {BadRequest, NotFound, MethodNotAllowed, InternalError}
        kinds.update(self.errors)
        if self.scopes is not None:
            kinds |= {Unauthorized, Forbidden, OAuthServerUnavailable}
        if self.secret:
            kinds.add(Unauthorized)
        if self.body is not None:
            kinds |= {RequestTimeout, PayloadTooLarge, UnsupportedMediaType}
        return frozenset(kinds)

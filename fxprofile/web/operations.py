"""
The declaration of an endpoint: the one place that drives its routing, its authorization, the
validation of its body, and its description in ``/openapi.json``.

An :class:`Operation` decorates a handler, and takes the rest from the handler's signature and
docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel

from fxprofile.model.errors import (
    ApiError,
    AuthServerRefused,
    AuthServerUnavailable,
    BadRequest,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OAuthServerUnavailable,
    PayloadTooLarge,
    RequestTimeout,
    TargetTooLong,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)

F = TypeVar("F", bound=Callable[..., object])


@dataclass
class Operation:
    """
    An endpoint.

    :ivar route: method and path, the path in werkzeug's notation.
    :ivar scopes: a token needs one of them; empty if any valid token will do, None if no
        token is needed.
    :ivar secret: whether the secret bearer token is needed.
    :ivar errors: errors that can occur besides those of every endpoint, of a token, and of a
        body.
    :ivar token_form: whether the token may be a form field (RFC 6750, section 2.2).
    :ivar status: the status of success.
    :ivar responses: descriptions of further responses by status.
    :ivar examples: bodies by status; those of the body's type unless given.
    :ivar headers: descriptions of response headers.
    :ivar parameters: types of request headers.
    :ivar accepts: media types of a body that the handler reads itself.
    :ivar produces: media types of the response; all but the first are plain text.
    :ivar activity: the name of the event that a success is logged as; empty to log none.
    :ivar documented: whether ``/openapi.json`` contains it.
    :ivar method: the HTTP method.
    :ivar path: the path, in werkzeug's notation.
    :ivar id: the ``operationId``: the name of the handler in camel case.
    :ivar summary: the first line of the handler's docstring.
    :ivar path_parameters: types of the handler's arguments that come from the path.
    :ivar body: the type of the handler's argument ``body``, a JSON body; None without one.
    :ivar response: the type of the response's body.
    """

    route: str
    scopes: tuple[str, ...] | None = None
    secret: bool = False
    errors: tuple[type[ApiError], ...] = ()
    token_form: bool = False
    status: int = 200
    responses: Mapping[int, str] = field(default_factory=dict)
    examples: Mapping[int, tuple[object, ...]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    accepts: tuple[str, ...] = ()
    produces: tuple[str, ...] = ("application/json",)
    activity: str = ""
    documented: bool = True
    method: str = field(init=False)
    path: str = field(init=False)
    id: str = field(init=False)
    summary: str = field(init=False)
    path_parameters: Mapping[str, Any] = field(init=False)
    body: type[BaseModel] | None = field(init=False)
    response: Any = field(init=False)

    def __call__(self, handler: F) -> F:
        """Mark a method as the handler; :meth:`fxprofile.web.api.Api.add` registers it."""
        first, *rest = handler.__name__.split("_")
        types = get_type_hints(handler, include_extras=True)
        self.method, self.path = self.route.split()
        self.id = first + "".join(word.capitalize() for word in rest)
        self.summary = (handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        self.path_parameters = {n: kind for n, kind in types.items() if f"<{n}>" in self.route}
        self.body = types.get("body")
        (self.response,) = get_args(types["return"])
        handler.operation = self  # type: ignore[attr-defined]
        return handler

    @property
    def writes(self) -> bool:
        """Whether it changes data of the user of the token."""
        return any(scope.endswith(":write") for scope in self.scopes or ())

    @property
    def all_errors(self) -> frozenset[type[ApiError]]:
        """Every error that can occur."""
        kinds: set[type[ApiError]] = {
            *(BadRequest, NotFound, MethodNotAllowed, TargetTooLong, InternalError)
        }
        kinds.update(self.errors)
        if self.scopes is not None:
            kinds |= {Unauthorized, Forbidden, TooManyRequests, OAuthServerUnavailable}
        if AuthServerUnavailable in self.errors:
            kinds.add(AuthServerRefused)
        if self.secret:
            kinds.add(Unauthorized)
        if self.body is not None or self.accepts:
            kinds |= {RequestTimeout, PayloadTooLarge, UnsupportedMediaType}
        if self.token_form:
            kinds |= {RequestTimeout, PayloadTooLarge}
        return frozenset(kinds)

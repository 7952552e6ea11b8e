"""Profiles, and the data of a user from the identity servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

# pydantic cannot read the TypedDict of the standard library before Python 3.12.
from typing_extensions import TypedDict


@dataclass(frozen=True)
class Profile:
    """
    The profile of a user in the database.

    :ivar changed_at: when it last changed, in seconds since the epoch.
    :ivar monogram: the letter that users without an avatar were last shown by.
    """

    uid: str
    display_name: str | None = None
    avatar_id: str | None = None
    changed_at: float = 0.0
    monogram: str | None = None


@dataclass(frozen=True)
class Credentials:
    """
    The OAuth server's response for a token.

    :ivar profile_changed_at: when the account last changed, in milliseconds since the epoch,
        as the OAuth server counts, or None if it is not known.
    :ivar expires_at: when the token expires, in seconds since the epoch, or None.
    """

    uid: str
    scopes: tuple[str, ...]
    profile_changed_at: int | None = None
    client_id: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True)
class Sent:
    """
    How the auth server sends a field of an account, and who may see it.

    :ivar names: what the auth server calls the field; an earlier name takes precedence.
    :ivar scopes: those that show the field, any of them; empty if every token sees the field
        that sees another one.
    """

    names: tuple[str, ...]
    scopes: tuple[str, ...]


def _encodable(text: str) -> str:
    text.encode()
    return text


def _is_two_factor(level: object) -> bool:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level <= 2**53:
        raise ValueError("not a level")
    return level >= 2


def _capabilities(sent: object, info: ValidationInfo) -> object:
    """Return the capabilities of all clients and those of one; older servers send a list."""
    if not isinstance(sent, dict):
        return sent
    by_client = _BY_CLIENT.validate_python(sent, strict=True)
    return sorted({*by_client.get("*", ()), *by_client.get(info.context or "", ())})


_Text = Annotated[str, AfterValidator(_encodable)]

_BY_CLIENT: Final = TypeAdapter(dict[str, list[_Text]])

_Milliseconds = Annotated[
    int, Field(ge=0, le=2**53, description="In milliseconds since the epoch; absent if it is not.")
]


class Account(TypedDict, total=False):
    """
    The auth server's data of an account; a field that it did not send is absent.

    Each line is a field: its name here, its type, and how it is sent.
    """

    email: Annotated[_Text, Sent(("email",), ("profile:email", "email"))]
    locale: Annotated[_Text, Sent(("locale",), ("profile:locale",))]
    amrValues: Annotated[list[_Text], Sent(("authenticationMethods",), ("profile:amr",))]
    twoFactorAuthentication: Annotated[
        bool,
        BeforeValidator(_is_two_factor),
        Sent(("authenticatorAssuranceLevel",), ("profile:amr",)),
    ]
    subscriptions: Annotated[
        list[_Text],
        BeforeValidator(_capabilities),
        Sent(("subscriptionsByClientId", "subscriptions"), ("profile:subscriptions",)),
    ]
    metricsEnabled: Annotated[bool, Sent(("metricsEnabled",), ())]
    accountDisabledAt: Annotated[
        _Milliseconds, Sent(("accountDisabledAt",), ("profile:account_disabled_at",))
    ]
    accountLockedAt: Annotated[
        _Milliseconds, Sent(("accountLockedAt",), ("profile:account_locked_at",))
    ]


def _sent(kind: object) -> Sent:
    (sent,) = (each for each in get_args(kind) if isinstance(each, Sent))
    return sent


#: How each field of an account is sent, by its name.
ACCOUNT_FIELDS: Final = {
    name: _sent(kind) for name, kind in get_type_hints(Account, include_extras=True).items()
}

#: Names of the auth server that are not fields: the OAuth server sends this one too.
_NOT_SHOWN: Final = {"profileChangedAt"}

_KNOWN: Final = {name for sent in ACCOUNT_FIELDS.values() for name in sent.names} | _NOT_SHOWN

_ACCOUNT: Final = TypeAdapter(Account)


def read_account(
    members: Mapping[str, object], client_id: str | None
) -> tuple[Account, frozenset[str]]:
    """
    Read a response of the auth server.

    :param client_id: of the token.
    :returns: the account, and the names of unknown fields, which are dropped.
    :raises ValueError: with the name of a field of a wrong type, and nothing of its value.
    """
    given = {
        name: members[source]
        for name, sent in ACCOUNT_FIELDS.items()
        for source in reversed(sent.names)
        if members.get(source) is not None
    }
    try:
        account = _ACCOUNT.validate_python(given, strict=True, context=client_id)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        raise ValueError(f"{problem['loc'][0]}: {problem['type']}") from None
    if not account.get("subscriptions"):
        account.pop("subscriptions", None)
    return account, frozenset(members.keys() - _KNOWN)

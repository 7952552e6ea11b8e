"""The identity of developers: accounts that the configuration lists."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from zope.interface import implementer

from fxprofile.model.errors import AccountUnknown, InvalidToken
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import Account, Credentials
from fxprofile.settings.model import DevAccount


@implementer(IIdentity)
class DevIdentity:
    """
    Accounts that need no server.  Never for production: the tokens do not end.

    :param accounts: who there is; several may share a uid, with other scopes.
    """

    servers: Final[tuple[str, ...]] = ()

    def __init__(self, accounts: Iterable[DevAccount]) -> None:
        self._accounts = tuple(
            (_digest(account.token.get_secret_value()), account) for account in accounts
        )

    async def verify(self, *, token: str) -> Credentials:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        account = self._find(token)
        if account is None:
            raise InvalidToken("no development account has this token")
        return Credentials(uid=account.uid, scopes=account.scopes)

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        """See :class:`fxprofile.model.ports.IIdentity`."""
        account = self._find(token)
        if account is None or account.uid != credentials.uid:
            raise AccountUnknown("no development account has this token")
        return Account(
            email=account.email,
            locale=account.locale,
            amr_values=account.amr_values,
            two_factor=account.two_factor,
        )

    async def invalidate_tokens(self, *, uid: str) -> None:
        """Nothing is remembered."""

    async def check(self, *, server: str) -> bool:
        """There are no servers, so none can be asked for."""
        raise KeyError(server)

    def _find(self, token: str) -> DevAccount | None:
        # Digests are of one length, and all are compared: the time tells nothing.
        digest = _digest(token)
        found = None
        for other, account in self._accounts:
            if hmac.compare_digest(digest, other):
                found = account
        return found


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()

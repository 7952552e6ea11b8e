"""The development identity: accounts listed in the settings."""

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
    Accounts without a server.  Not for production: their tokens never expire.

    :param accounts: the accounts; several may share a uid and differ in scopes.
    """

    servers: Final[tuple[str, ...]] = ()

    def __init__(self, accounts: Iterable[DevAccount]) -> None:
        self._accounts = tuple(
            (_digest(account.token.get_secret_value()), account) for account in accounts
        )

    async def verify(self, *, token: str) -> Credentials:
        """See :meth:`fxprofile.model.ports.IIdentity.verify`."""
        account = self._find(token)
        if account is None:
            raise InvalidToken("no development account has this token")
        return Credentials(uid=account.uid, scopes=account.scopes)

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        """See :meth:`fxprofile.model.ports.IIdentity.account`."""
        account = self._find(token)
        if account is None or account.uid != credentials.uid:
            raise AccountUnknown("no development account has this token")
        known = Account(email=account.email)
        if account.locale is not None:
            known["locale"] = account.locale
        if account.amr_values is not None:
            known["amrValues"] = list(account.amr_values)
        if account.two_factor is not None:
            known["twoFactorAuthentication"] = account.two_factor
        return known

    async def invalidate_tokens(self, *, uid: str) -> None:
        """Do nothing: no token is cached."""

    async def check(self, *, server: str) -> bool:
        """Raise KeyError: there are no servers."""
        raise KeyError(server)

    def _find(self, token: str) -> DevAccount | None:
        # Comparing digests with all accounts takes constant time.
        digest = _digest(token)
        found = None
        for other, account in self._accounts:
            if hmac.compare_digest(digest, other):
                found = account
        return found


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()

"""An identity driver whose accounts a test sets."""

from __future__ import annotations

from zope.interface import implementer

from fxprofile.model.errors import InvalidToken
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import Account, Credentials


@implementer(IIdentity)
class FakeIdentity:
    """
    An identity driver in memory.

    :ivar credentials: by token.
    :ivar accounts: by uid.
    """

    servers = ()

    def __init__(self) -> None:
        self.credentials: dict[str, Credentials] = {}
        self.accounts: dict[str, Account] = {}

    async def verify(self, *, token: str) -> Credentials:
        if token not in self.credentials:
            raise InvalidToken("not here")
        return self.credentials[token]

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        return self.accounts[credentials.uid]

    async def invalidate_tokens(self, *, uid: str) -> None:
        pass

    async def check(self, *, server: str) -> bool:
        raise KeyError(server)

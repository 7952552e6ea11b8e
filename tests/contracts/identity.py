"""What every identity driver does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface.verify import verifyObject

from fxprofile.model.errors import AccountUnknown, InvalidToken
from fxprofile.model.ports import IIdentity
from fxprofile.model.profiles import Account, Credentials

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

ALICE = "a11ce000a11ce000a11ce000a11ce000"

#: Texts that no server gives out as a token.
BAD_TOKENS = [
    "",
    " ",
    "nobody",
    "alice ",
    "ALICE",
    "alice\n",
    "alice\r\nX-Evil: 1",
    "al\u00ef\u00e7e",
    "\ud800",
    "\x00",
    "a" * 10_000,
]


class IdentityContract(_Base):
    """
    Mixed into a test case that makes the driver.

    The driver knows the account of :data:`ALICE` by the token ``alice``, with scopes
    ``profile`` and ``profile:write``.
    """

    async def make_identity(self) -> Any:
        """The driver."""
        raise NotImplementedError

    async def test_interface(self) -> None:
        """The driver has every method of the interface."""
        verifyObject(IIdentity, await self.make_identity())

    async def test_verify(self) -> None:
        """A good token names its user and its scopes."""
        identity = await self.make_identity()
        credentials = await identity.verify(token="alice")
        self.assertEqual(credentials.uid, ALICE)
        self.assertEqual(credentials.scopes, ("profile", "profile:write"))

    async def test_bad_tokens(self) -> None:
        """Any other text is an invalid token, whatever is in it, and is not repeated."""
        identity = await self.make_identity()
        for token in BAD_TOKENS:
            with self.assertRaises(InvalidToken) as raised:
                await identity.verify(token=token)
            if token.strip():
                self.assertNotIn(token, str(raised.exception))

    async def test_account(self) -> None:
        """The account of a good token is told in our words."""
        identity = await self.make_identity()
        credentials = await identity.verify(token="alice")
        account = await identity.account(token="alice", credentials=credentials)
        self.assertEqual(
            account,
            Account(
                email="alice@example.com", locale="en-US", amr_values=("pwd",), two_factor=False
            ),
        )

    async def test_account_gone(self) -> None:
        """A token whose account is not there is told apart from a failure."""
        identity = await self.make_identity()
        with self.assertRaises(AccountUnknown) as raised:
            await identity.account(
                token="nobody-s-token", credentials=Credentials(uid=ALICE, scopes=("profile",))
            )
        self.assertNotIn("nobody-s-token", str(raised.exception))

    async def test_forget(self) -> None:
        """Forgetting a user is harmless: a token that is still good still works."""
        identity = await self.make_identity()
        await identity.invalidate_tokens(uid="f" * 32)
        await identity.verify(token="alice")
        await identity.invalidate_tokens(uid=ALICE)
        self.assertEqual((await identity.verify(token="alice")).uid, ALICE)

    async def test_check(self) -> None:
        """Every server behind a driver that works is said to answer."""
        identity = await self.make_identity()
        for server in identity.servers:
            self.assertIs(await identity.check(server=server), True, server)
        with self.assertRaises(KeyError):
            await identity.check(server="nobody's")

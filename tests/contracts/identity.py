"""The contract of identity drivers."""

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

#: Texts that are not valid tokens.
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
        """Return the driver."""
        raise NotImplementedError

    async def test_identity_provides_its_interface(self) -> None:
        """The driver has every method of the interface."""
        verifyObject(IIdentity, await self.make_identity())

    async def test_valid_token(self) -> None:
        """A valid token has a user and scopes."""
        identity = await self.make_identity()
        credentials = await identity.verify(token="alice")
        self.assertEqual(credentials.uid, ALICE)
        self.assertEqual(credentials.scopes, ("profile", "profile:write"))

    async def test_invalid_tokens(self) -> None:
        """Any other text is an invalid token, and the error does not repeat it."""
        identity = await self.make_identity()
        for token in BAD_TOKENS:
            with self.assertRaises(InvalidToken) as raised:
                await identity.verify(token=token)
            if token.strip():
                self.assertNotIn(token, str(raised.exception))

    async def test_account_of_a_token(self) -> None:
        """The account of a valid token has all its fields."""
        identity = await self.make_identity()
        credentials = await identity.verify(token="alice")
        account = await identity.account(token="alice", credentials=credentials)
        self.assertEqual(
            account,
            Account(
                email="alice@example.com",
                locale="en-US",
                amrValues=["pwd"],
                twoFactorAuthentication=False,
            ),
        )

    async def test_unknown_account(self) -> None:
        """A token without an account raises AccountUnknown, which does not repeat the token."""
        identity = await self.make_identity()
        with self.assertRaises(AccountUnknown) as raised:
            await identity.account(
                token="nobody-s-token", credentials=Credentials(uid=ALICE, scopes=("profile",))
            )
        self.assertNotIn("nobody-s-token", str(raised.exception))

    async def test_invalidated_token_is_verified_again(self) -> None:
        """A token that is still valid works after its user's tokens were invalidated."""
        identity = await self.make_identity()
        await identity.invalidate_tokens(uid="f" * 32)
        await identity.verify(token="alice")
        await identity.invalidate_tokens(uid=ALICE)
        self.assertEqual((await identity.verify(token="alice")).uid, ALICE)

    async def test_check_of_each_server(self) -> None:
        """The check of each server of a working driver succeeds; another name is a KeyError."""
        identity = await self.make_identity()
        for server in identity.servers:
            self.assertIs(await identity.check(server=server), True, server)
        with self.assertRaises(KeyError):
            await identity.check(server="nobody's")

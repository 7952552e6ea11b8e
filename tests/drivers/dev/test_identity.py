"""The development identity."""

from __future__ import annotations

from pydantic import SecretStr
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.app.services import Services
from fxprofile.drivers.dev.identity import DevIdentity
from fxprofile.model.errors import AccountUnknown
from fxprofile.settings.load import load
from fxprofile.settings.model import DevAccount, DevSettings
from tests.contracts.identity import ALICE, IdentityContract


class DevIdentityTests(IdentityContract, TestCase):
    """The development driver fulfils the contract with the default accounts."""

    async def make_identity(self) -> DevIdentity:
        return DevIdentity(DevSettings().accounts)

    async def test_default_accounts(self) -> None:
        """The default settings select this driver, with the tokens alice and bob."""
        identity = Services(load(environ={}), Clock()).identity
        self.assertIsInstance(identity, DevIdentity)
        for token in ("alice", "bob"):
            await identity.verify(token=token)

    async def test_several_tokens_of_one_user(self) -> None:
        """Several tokens of one user may have different scopes."""
        identity = DevIdentity(
            DevAccount(token=SecretStr(token), uid=ALICE, email="a@b", scopes=scopes)
            for token, scopes in (("all", ("profile",)), ("little", ("profile:uid",)))
        )
        little = await identity.verify(token="little")
        self.assertEqual((little.uid, little.scopes), (ALICE, ("profile:uid",)))
        self.assertEqual((await identity.verify(token="all")).scopes, ("profile",))

    async def test_account_of_another_user(self) -> None:
        """A token cannot read the account of another user."""
        identity = await self.make_identity()
        bob = await identity.verify(token="bob")
        with self.assertRaises(AccountUnknown):
            await identity.account(token="alice", credentials=bob)

    async def test_heartbeat_has_no_servers(self) -> None:
        """The driver has no servers that could fail the heartbeat."""
        identity = await self.make_identity()
        self.assertEqual(identity.servers, ())

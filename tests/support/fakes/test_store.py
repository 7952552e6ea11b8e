"""
Tests for the profile store in memory.
"""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.contracts.store import StoreContract
from tests.support.fakes.store import MemoryProfileStore


class MemoryProfileStoreTests(StoreContract, TestCase):
    """The store in memory passes the contract of profile stores."""

    async def make_store(self) -> MemoryProfileStore:
        return MemoryProfileStore()

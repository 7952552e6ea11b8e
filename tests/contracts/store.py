"""
What every profile store does.
"""

from __future__ import annotations

from tests.contracts.store_deletions import DeletionsContract
from tests.contracts.store_upkeep import UpkeepContract
from tests.contracts.store_uploads import UploadsContract


class StoreContract(UploadsContract, DeletionsContract, UpkeepContract):
    """
    A test case that is also one of these makes its store by :meth:`make_store`.
    """

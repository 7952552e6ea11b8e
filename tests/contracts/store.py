"""
The contract of profile stores.
"""

from __future__ import annotations

from tests.contracts.store_deletions import DeletionsContract
from tests.contracts.store_quarantine import QuarantineContract
from tests.contracts.store_upkeep import UpkeepContract
from tests.contracts.store_uploads import UploadsContract


class StoreContract(UploadsContract, DeletionsContract, UpkeepContract, QuarantineContract):
    """A test case inherits from this and implements :meth:`make_store`."""

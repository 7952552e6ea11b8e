"""The job of a helper on a system without ``pidfd_open``, such as Linux before 5.3."""

from __future__ import annotations

import os

from tests.crunch.children import run

__all__ = ["run"]

del os.pidfd_open

"""
Level 2. Drivers: one folder per outside system, each implementing ports of ``model/ports.py``.

No error of an outside library leaves this folder, only a ``DriverError`` of its kind.
No rule of the service lives here.
"""

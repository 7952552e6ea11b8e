"""
Level 2. Drivers: one folder per outside system, each implementing ports of ``model/ports.py``.

An error of an outside library becomes a ``DriverError`` here.  No rule of the service lives here.
"""

"""
The history of the schema, for Alembic.

A revision is a file in ``versions``.  It spells out what it changes and imports nothing
from :mod:`fxprofile`, whose tables go on to change.
"""

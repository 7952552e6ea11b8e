"""
Level 5. ``fxprofile-admin``: one module per command; ``shared/`` has what commands share.

``import_fxa/`` and ``provision/`` are commands of several modules, which no other folder imports.
Nothing that the daemon runs belongs here.  Libraries: click, pydantic, rich,
sqlalchemy, treq.
"""

"""
Level 5. ``fxprofile-admin``: one module per command, what commands share in ``shared/``.

``import_fxa/`` and ``provision/`` are commands of several modules; no other folder imports them.
Nothing the daemon runs belongs here.
"""

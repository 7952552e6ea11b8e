"""
Level 4. Receive messages from a queue, hold their leases, run jobs.

``poller.py`` serves every queue; ``jobs.py`` runs jobs.  How an image is decoded lives in
``crunch/``; what a result changes lives in ``uploads/``.
"""

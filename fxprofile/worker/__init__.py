"""
Level 4. Receive a job, hold its lease, run it.

The poller and its leases serve every queue; ``crunch.py`` runs jobs.  How an image is decoded
lives in ``crunch/``; what a result changes lives in ``uploads/``.
"""

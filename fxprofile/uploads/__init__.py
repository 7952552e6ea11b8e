"""
Level 3. The life of an avatar: accept, send its job, apply results, select, delete, repair.

Uses ports only: no HTTP, no SQL, no AWS.
"""

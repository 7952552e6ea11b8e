"""
Buckets in a local folder.

Atomic, durable, and validated keys.  For one host only.
"""

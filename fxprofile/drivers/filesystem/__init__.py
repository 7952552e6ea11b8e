"""
Buckets that are folders of this host: atomic and durable puts, validated keys.

``bucket.py`` implements the port in threads; ``folder.py`` holds the blocking calls;
``space.py`` keeps a reserve of the disk.
"""

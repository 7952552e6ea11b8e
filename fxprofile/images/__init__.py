"""
Level 4. The images role: serves the public bucket on an origin of its own.

Reads one bucket and nothing else: no database, no queue, no identity.  Libraries: cachetools,
werkzeug.
"""

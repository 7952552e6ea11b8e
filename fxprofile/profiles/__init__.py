"""
Level 3. Profiles: read, cache, invalidate, scopes, account events.

Works on ports alone: no HTTP, no SQL, no Redis.
"""

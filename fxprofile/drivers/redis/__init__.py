"""
Drivers in Redis: cache, revocations, rate-limit windows.

Shared by all web processes.  The only folder that imports txredisapi.
"""

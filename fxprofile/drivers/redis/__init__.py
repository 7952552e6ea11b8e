"""
Drivers in Redis, which all web processes share: cache, revocations, rate-limit windows.

Libraries: txredisapi.
"""

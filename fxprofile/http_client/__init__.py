"""
Level 1. HTTP requests to servers that are not trusted to answer well or at all.

Bounded in time and size.  Knows nothing of what is asked for.
"""

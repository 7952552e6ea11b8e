"""
Level 1. HTTP requests to servers that are not trusted to respond correctly or at all.

Bounded in time and size.  Knows nothing of the content.  Libraries: treq.
"""

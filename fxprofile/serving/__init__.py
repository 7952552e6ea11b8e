"""
Level 1. The streaming HTTP server: channel, listener, health, status page, conditional
requests.

Knows nothing of avatars and profiles.  Routes live in ``web/`` and ``images/``.
"""

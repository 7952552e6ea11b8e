"""
Level 1. The streaming HTTP server: channel, request body, site, health, conditional requests.

Knows nothing of avatars and profiles.  Routes live in ``web/`` and ``images/``.
"""

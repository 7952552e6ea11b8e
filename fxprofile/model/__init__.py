"""
Level 0. The domain model: avatars, messages, profiles, keys, errors, ports.

Values and interfaces only: no I/O, no clock, no settings.  Libraries: pydantic,
typing_extensions.
"""

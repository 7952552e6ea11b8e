"""
Level 0. The words of the service: avatars, messages, profiles, keys, errors, ports.

Values and interfaces only: no I/O, no clock, no settings.
"""

"""
Identity from the settings, for development.

Refuses to start in production.
"""

"""
``fxprofile-admin import-fxa``: copy profiles and avatars from the original server.

Reads the original's database and pictures, and writes through this service's drivers.
No other folder imports this one.
"""

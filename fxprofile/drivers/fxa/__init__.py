"""
The Firefox Accounts servers: OAuth, auth and customs.

Verifies tokens and reads accounts.  Libraries: cachetools, joserfc.
"""

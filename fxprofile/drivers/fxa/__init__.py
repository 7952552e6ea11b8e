"""
The Firefox Accounts servers: OAuth, auth and customs.

Verifies tokens and reads accounts.  The only folder that imports joserfc.
"""

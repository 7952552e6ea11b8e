"""The Firefox Accounts profile service, on Twisted."""

__version__ = "1.0.0"

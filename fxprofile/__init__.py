"""The Firefox Accounts profile service, on Twisted."""

__version__ = "0.1.0"

"""The operators' command line, ``fxprofile-admin``."""

"""Tests of :mod:`fxprofile.database`."""

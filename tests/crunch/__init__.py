"""Tests of the cruncher."""

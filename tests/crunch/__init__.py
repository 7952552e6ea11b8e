"""The cruncher."""

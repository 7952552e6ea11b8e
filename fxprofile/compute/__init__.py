"""Hostile bytes in, three clean pictures out, in a fresh locked child for each image."""

"""
Level 1. Metrics, logs and error reports.

Imported by whoever counts or logs.  Decides nothing.
"""

"""
Level 1. Metrics, logs and error reports.

Every folder may count and log with it; it decides nothing.  Libraries: prometheus_client,
sentry_sdk.
"""

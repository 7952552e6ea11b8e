"""
Level 1. Metrics, logs, error reports and traces.

Every folder may count and log with it; it decides nothing.  Libraries: prometheus_client,
sentry_sdk.
"""

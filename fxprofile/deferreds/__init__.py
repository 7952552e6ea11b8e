"""
Level 0. What coroutines need and Twisted lacks: single flight, notifier, backoff, threads,
producers, ordered services.

Knows nothing of the service.  Time comes from an ``IReactorTime``.
"""

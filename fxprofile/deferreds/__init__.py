"""
Level 0. What coroutines on Twisted need and Twisted lacks: single flight, notifier, backoff,
threads, service stacks.

Knows nothing of the service.  Time comes from an ``IReactorTime``.
"""

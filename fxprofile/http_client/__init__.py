"""
Level 1. The HTTP/1.1 client under everything that calls out.

``agent.py`` has the pool and the ``IAgent``, ``connection.py`` speaks HTTP on one connection, and
``upstream.py`` exchanges JSON with servers that are not trusted.  Libraries: httptools.
"""

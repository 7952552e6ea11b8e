"""
The helper process: preloaded, forks one child per image, never decodes an upload itself.

Trusted, but without credentials or network.  No other process imports it.
"""

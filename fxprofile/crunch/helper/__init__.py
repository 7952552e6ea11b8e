"""
The helper process: preloaded, forks one child per image, never decodes an upload itself.

Trusted, but without credentials or network.  No other process imports it.  It has a small loop
of its own instead of Twisted, whose memory would be copied with each child.
"""

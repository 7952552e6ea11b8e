"""The HTTP server that all listeners share: streamed bodies, and an orderly end."""

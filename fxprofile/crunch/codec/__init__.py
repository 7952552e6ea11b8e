"""
What runs in the sandboxed child: decode, orient, convert, downscale, encode.

Its results are untrusted.  It imports nothing from the helper or the sandbox.  Libraries: PIL,
numpy, pillow_heif, zlib_ng.
"""

"""
What runs in the locked child: decode, orient, convert, downscale, encode.

The only folder that imports Pillow and numpy.  It imports nothing from the helper or the
sandbox.  Its results are untrusted.
"""

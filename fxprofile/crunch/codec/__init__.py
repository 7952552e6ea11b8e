"""
What runs in the locked child: decode, orient, convert, downscale, encode.

The only folder that imports Pillow and numpy.  Whatever it returns is untrusted.
"""

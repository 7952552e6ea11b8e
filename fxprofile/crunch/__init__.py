"""
Level 2. Crunching, the parent side: the pool, the helper connection, checking results.

``helper/`` forks a child per image, ``sandbox/`` locks the child, ``codec/`` decodes inside it.
This folder itself imports nothing from ``helper/`` or ``codec/``, so neither Pillow nor numpy.
"""

"""
Level 2. Crunching, the parent's side: the pool, the helper connection, checking results.

``helper/`` forks a child per image, ``sandbox/`` locks it, ``codec/`` decodes inside it.
Nothing in this folder itself imports Pillow or numpy.
"""

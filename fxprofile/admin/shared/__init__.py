"""
What the commands share: sessions, output, look-ups, and the objects that they work with.

Imported by commands only.  A module that a single command uses belongs beside that command.
"""

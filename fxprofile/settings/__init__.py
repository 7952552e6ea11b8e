"""
Level 0. The settings model, and how it is loaded.

Read once, then frozen and passed down.  Nothing else reads the environment.
"""

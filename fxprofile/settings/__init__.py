"""
Level 0. The settings model, and how it is loaded.

Read once, then frozen and passed down.  No other folder reads the environment.  Libraries:
pydantic, pydantic_core, pydantic_settings.
"""

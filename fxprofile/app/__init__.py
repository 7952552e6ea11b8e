"""
Level 5. The process: its services, what each role starts, and start-up reporting.

``services.py`` makes every service, once, from settings and a reactor; no other folder does.
What a service does lives in the folders below.  Libraries: pydantic.
"""

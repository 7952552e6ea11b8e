"""
Level 5. The process: the object graph, what each role starts, and start-up reporting.

Everything is built here, once, from settings and a reactor; no other folder builds a service.
What a service does lives in the folders below.
"""

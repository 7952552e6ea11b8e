"""
Drivers in the memory of one process: cache, queue, rate-limit windows.

They pass the same contracts as the others.  Nothing survives a restart.  Libraries: cachetools.
"""

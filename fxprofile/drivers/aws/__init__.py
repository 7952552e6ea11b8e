"""
Amazon Web Services without blocking.

botocore knows how the services are spoken to, how requests are signed and where
credentials come from; the bytes travel by treq.
"""

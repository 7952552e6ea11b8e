"""
``fxprofile-admin provision``: create buckets, queues and the schema, and show the plan first.

Talks to S3 and SQS through ``drivers/aws``.  No other folder imports this one.
"""

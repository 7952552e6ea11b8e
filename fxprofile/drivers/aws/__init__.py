"""
Amazon S3 and SQS drivers, and the non-blocking AWS client that they use.

``client/`` is a library of its own; ``s3.py`` and ``sqs.py`` implement the ports with it and
translate its errors.  Libraries: botocore.
"""

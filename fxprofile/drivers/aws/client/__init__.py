"""
A non-blocking AWS client for Twisted: calls, signing, credentials, retries and streaming.

No library does this: botocore and boto3 block on their own HTTP, aiobotocore needs asyncio's
event loop and aiohttp, and txAWS does not run on Python 3.  botocore's models, serializers,
parsers, endpoint rules and credential chain are used; its HTTP and its signers are not.

From the rest of the package it imports only ``fxprofile.http_client`` and ``fxprofile.deferreds``
(single flight, backoff, threads), so that the three could be released without the service.
"""

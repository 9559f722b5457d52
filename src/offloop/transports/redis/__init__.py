"""The transport over Redis Streams: requests in one stream a pool, answers in one inbox a web process.

Owns both ends and what is between them. Only this package sees Redis, but for the command line's `dead`.
"""

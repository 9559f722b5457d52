"""The transport between a web process and worker processes on its host: sockets, and a table in shared memory.

`frames` is the wire, `table` the evidence of what has begun, `web` holds the web side's ends of the ports, `worker` the
worker side's. Who is started and ended is `orchestration/`'s affair.
"""

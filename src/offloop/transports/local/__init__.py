"""The transport between a web process and worker processes on its host: sockets, and a table in shared memory.

`frames` is the wire, `table` the evidence of what has begun; `web` has the web side's ends of the ports, `link` one
worker as it is seen from there, and `worker` the worker side's ends. Who is started and ended is `orchestration/`'s
affair.
"""

"""The same two functions as endpoints of offloop."""

from offloop import endpoint
from work import Reply, Req, echoed, spun


@endpoint(http="POST /echo")
def echo(req: Req) -> Reply:
    return echoed(req)


@endpoint(http="POST /cpu10")
def cpu10(req: Req) -> Reply:
    return spun(req)

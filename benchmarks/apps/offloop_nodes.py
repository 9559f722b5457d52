"""The same functions as endpoints of offloop, with the limits it comes with.

Only a stream has more time: with sixteen at once the last waits for all the others.
"""

from collections.abc import Iterator

from offloop import Blob, endpoint
from work import Digest, Piece, Reply, Req, Slept, Wanted, Whole, cut, digested, echoed, slept, spun


@endpoint(http="POST /echo")
def echo(req: Req) -> Reply:
    return echoed(req)


@endpoint(http="POST /cpu10")
def cpu10(req: Req) -> Reply:
    return spun(req)


@endpoint(http="POST /sleep5")
def sleep5(req: Req) -> Slept:
    return slept(req)


@endpoint(http="POST /big")
def big(body: Blob) -> Digest:
    return digested(body.data)


@endpoint(http="POST /stream", websocket="/stream", stream=Piece, timeout=60)
def stream(wanted: Wanted) -> Iterator[Piece | Whole]:
    return cut(wanted)

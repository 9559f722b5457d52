"""An endpoint whose requests wait: one is worked on for as long as a measurement may take, all others lie behind it."""

import time

from offloop import endpoint
from work import Reply, Req, echoed

LONG = 600.0


@endpoint(http="POST /hold", pool="holding", timeout=LONG, max_in_flight=20_000)
def hold(req: Req) -> Reply:
    time.sleep(LONG)  # noqa: TID251
    return echoed(req)

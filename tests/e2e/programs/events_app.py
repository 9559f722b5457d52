"""The app around the nodes that stream, with and without dependencies and middleware.

Its patience and its pauses are a test's to shorten: no setting of the product does.
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter, events, exception_handlers, patience
from tests.e2e.programs import events as program

patience.PATIENCE = float(os.environ.get("TEST_PATIENCE", patience.PATIENCE))
patience.SLOWEST = int(os.environ.get("TEST_SLOWEST", patience.SLOWEST))
events.KEEP_ALIVE = float(os.environ.get("TEST_KEEP_ALIVE", events.KEEP_ALIVE))


async def keyed(x_key: Annotated[str | None, Header()] = None) -> None:
    if x_key != "open sesame":
        raise HTTPException(401, "no key")


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


off = Offloop("tests.e2e.programs.events")
app = FastAPI(exception_handlers=exception_handlers)
behind = FastAPI(exception_handlers=exception_handlers)
behind.add_middleware(Passing)
for each in (app, behind):
    each.include_router(OffloopRouter(off))
    each.include_router(OffloopRouter(off, program.tabulate), prefix="/keyed", dependencies=[Depends(keyed)])
    each.include_router(OperatorRouter(off), prefix="/offloop")

"""The app around it: everything that a user would put into one."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers
from tests.e2e.programs import nodes

off = Offloop("tests.e2e.programs.nodes")
app = FastAPI(exception_handlers=exception_handlers)
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


@app.post("/own", status_code=201)
async def own(message: nodes.Echo) -> nodes.Echoed:
    """A route of one's own."""
    return await off.ask(nodes.echo, message, request_id="own")


@app.post("/own/refused")
async def own_refused(message: nodes.Failing) -> Any:
    return await off.ask(nodes.refuse, message)


@app.post("/own/sync", status_code=201)
def own_sync(message: nodes.Echo) -> nodes.Echoed:
    """A route of one's own, in FastAPI's thread pool."""
    return off.ask_sync(nodes.echo, message)


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


behind = FastAPI(exception_handlers=exception_handlers)
behind.add_middleware(Passing)
behind.include_router(OffloopRouter(off))
behind.include_router(OperatorRouter(off), prefix="/offloop")

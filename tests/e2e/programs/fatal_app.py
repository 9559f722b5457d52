"""The app around it; it can end its own process in every way, and have a log handler that takes its time."""

import asyncio
import logging
import os
import sys

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers
from tests.support.gate import hold

off = Offloop("tests.e2e.programs.fatal")
app = FastAPI(exception_handlers=exception_handlers)
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


@app.post("/end/{how}")
async def end(how: str) -> None:
    if how == "_exit":
        os._exit(5)
    asyncio.get_running_loop().call_soon(sys.exit, 6)  # outside the request: there the server would catch it


class Slow(logging.Handler):
    """Stands at the gate with the first record, as a handler does whose disk or network does not answer."""

    held = False

    def emit(self, record: logging.LogRecord) -> None:
        if not Slow.held:
            Slow.held = True
            hold("the handler")


logging.getLogger("flood").addHandler(Slow())

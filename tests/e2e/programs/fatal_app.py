"""The app around it; it can end its own process in every way, and have a log handler that takes its time.

It counts what nobody sees from outside: the requests that lay with a worker when it died, and had not begun.
"""

import asyncio
import logging
import os
import sys

from fastapi import FastAPI

from offloop import Offloop
from offloop.core.crew import Crew
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers
from tests.support.gate import hold

off = Offloop("tests.e2e.programs.fatal")
app = FastAPI(exception_handlers=exception_handlers)
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


rescued: list[str] = []
gone = Crew.gone


def counted(crew: Crew, name: str, now: float) -> tuple[list[str], list[str]]:
    running, buffered = gone(crew, name, now)
    rescued.extend(buffered)
    return running, buffered


Crew.gone = counted  # type: ignore[method-assign]


@app.get("/rescued")
async def count() -> int:
    return len(rescued)


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

"""The app around them: once open, once behind a dependency."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter

off = Offloop("tests.e2e.programs.sockets")


async def known(x_key: Annotated[str, Header()] = "") -> None:
    if x_key != "secret":
        raise HTTPException(403, "who are you?")


app = FastAPI()
app.include_router(OffloopRouter(off))
app.include_router(OffloopRouter(off), prefix="/guarded", dependencies=[Depends(known)])
app.include_router(OperatorRouter(off), prefix="/offloop")


@app.post("/drain")
async def drain() -> None:
    off.begin_drain()


@app.get("/tasks")
async def tasks() -> int:
    return len(asyncio.all_tasks())

"""The same routes through offloop; `OFFLOOP_MODE`, `OFFLOOP_THREADS` and `OFFLOOP_WORKERS` say how."""

import os

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter

off = Offloop(*os.environ.get("BENCH_PACKAGES", "offloop_nodes").split(","))
app = FastAPI()
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off))


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

"""The same routes through offloop; `OFFLOOP_MODE`, `OFFLOOP_THREADS` and `OFFLOOP_WORKERS` say how."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter

off = Offloop("offloop_nodes")
app = FastAPI()
app.include_router(OffloopRouter(off))


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

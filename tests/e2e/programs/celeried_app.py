"""The web side of it."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers

off = Offloop("tests.e2e.programs.clustered", "tests.e2e.programs.celeried")
app = FastAPI(exception_handlers=exception_handlers)
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

"""The web side of it."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter

app = FastAPI()
off = Offloop("tests.e2e.programs.pooled")
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")

"""The web process of it."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter

off = Offloop("tests.e2e.programs.far.endpoints")
app = FastAPI()
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")

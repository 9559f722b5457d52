"""The demo's page in front of it."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.demo import page
from offloop.fastapi import OffloopRouter, OperatorRouter

off = Offloop("tests.e2e.programs.pages")
app = FastAPI()
app.include_router(OffloopRouter(off))
app.include_router(OperatorRouter(off), prefix="/offloop")
app.include_router(page.router)

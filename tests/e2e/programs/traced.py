"""The app whose program traces."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter, exception_handlers

app = FastAPI(exception_handlers=exception_handlers)
app.include_router(OffloopRouter(Offloop("tests.e2e.programs.nodes", "tests.e2e.programs.tracing")))

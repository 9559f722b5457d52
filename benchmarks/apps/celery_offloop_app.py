"""The same routes through offloop, with workers that are Celery's."""

from fastapi import FastAPI

from offloop import Offloop
from offloop.fastapi import OffloopRouter

off = Offloop("offloop_nodes")
app = FastAPI()
app.include_router(OffloopRouter(off))

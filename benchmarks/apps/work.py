"""What every application under measurement serves: the same models, the same two functions."""

import os

from pydantic import BaseModel

TURNS = int(os.environ.get("BENCH_TURNS", "170000"))


class Req(BaseModel):
    n: int
    payload: str


class Reply(BaseModel):
    n: int
    size: int


def echoed(req: Req) -> Reply:
    return Reply(n=req.n, size=len(req.payload))


def spun(req: Req) -> Reply:
    """About 10 ms of pure Python that never lets go of the GIL by itself (`run.py` sets how many turns that is)."""
    size = 0
    for turn in range(TURNS):
        size += turn & 3
    return Reply(n=req.n, size=size)

"""What every application under measurement serves: the same models, the same functions."""

import os
import time
from collections.abc import Iterator
from hashlib import sha256

from pydantic import BaseModel

TURNS = int(os.environ.get("BENCH_TURNS") or "170000")
WORKERS = int(os.environ.get("BENCH_WORKERS") or "0")
"""Threads or processes that run the work; 0: as many as the system has by itself."""


class Req(BaseModel):
    n: int
    payload: str


class Reply(BaseModel):
    n: int
    size: int


class Slept(BaseModel):
    n: int
    pid: int


class Digest(BaseModel):
    sha256: str


class Wanted(BaseModel):
    pieces: int
    size: int
    """Characters of each piece's payload."""


class Piece(BaseModel):
    n: int
    payload: str


class Whole(BaseModel):
    pieces: int


def echoed(req: Req) -> Reply:
    return Reply(n=req.n, size=len(req.payload))


def spun(req: Req) -> Reply:
    """About 10 ms of pure Python that never lets go of the GIL by itself (`run.py` sets how many turns that is)."""
    size = 0
    for turn in range(TURNS):
        size += turn & 3
    return Reply(n=req.n, size=size)


def slept(req: Req) -> Slept:
    """5 ms of waiting for something else; the answer says in which process."""
    time.sleep(0.005)  # noqa: TID251
    return Slept(n=req.n, pid=os.getpid())


def digested(body: bytes) -> Digest:
    return Digest(sha256=sha256(body).hexdigest())


def cut(wanted: Wanted) -> Iterator[Piece | Whole]:
    """So many pieces, each a model of its own, then the reply. All say the same, so that all take the same bytes."""
    payload = "x" * wanted.size
    for _ in range(wanted.pieces):
        yield Piece(n=wanted.pieces, payload=payload)
    yield Whole(pieces=wanted.pieces)

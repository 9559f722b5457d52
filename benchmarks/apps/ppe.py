"""The standard library's answer: `run_in_executor` on a ProcessPoolExecutor of spawned processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from typing import TypeVar

from fastapi import FastAPI, Request

from work import WORKERS, Digest, Reply, Req, Slept, digested, echoed, slept, spun

Given = TypeVar("Given")
Got = TypeVar("Got")

pool: ProcessPoolExecutor


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool  # noqa: PLW0603
    pool = ProcessPoolExecutor(WORKERS or None, mp_context=get_context("spawn"))
    yield
    pool.shutdown(wait=False, cancel_futures=True)


async def elsewhere(function: Callable[[Given], Got], given: Given) -> Got:
    return await asyncio.get_running_loop().run_in_executor(pool, function, given)


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
async def echo(req: Req) -> Reply:
    return await elsewhere(echoed, req)


@app.post("/cpu10")
async def cpu10(req: Req) -> Reply:
    return await elsewhere(spun, req)


@app.post("/sleep5")
async def sleep5(req: Req) -> Slept:
    return await elsewhere(slept, req)


@app.post("/big")
async def big(request: Request) -> Digest:
    return await elsewhere(digested, await request.body())


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

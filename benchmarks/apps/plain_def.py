"""FastAPI's own `def` routes: the work runs in the thread pool that FastAPI keeps for it (40 threads by default)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from work import WORKERS, Digest, Reply, Req, Slept, digested, echoed, slept, spun


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if WORKERS:
        current_default_thread_limiter().total_tokens = WORKERS
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
def echo(req: Req) -> Reply:
    return echoed(req)


@app.post("/cpu10")
def cpu10(req: Req) -> Reply:
    return spun(req)


@app.post("/sleep5")
def sleep5(req: Req) -> Slept:
    return slept(req)


@app.post("/big")
async def big(request: Request) -> Digest:
    # A `def` route has no way to a raw body; this is what it would do.
    return await run_in_threadpool(digested, await request.body())


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

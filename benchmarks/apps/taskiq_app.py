"""The same work behind taskiq: tasks over Redis Streams, results by its Redis backend, which callers ask for them.

The web application is here, and so is what `taskiq worker` runs.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from work import Reply, Req, echoed

URL = os.environ["BENCH_BROKER"]
EVERY = os.environ.get("BENCH_EVERY")
"""Seconds between two looks for a result; None: as it comes."""

# A result that was read is of no use to anybody: kept, they would fill the broker.
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, keep_results=False))


@broker.task
def echo_task(req: Req) -> Reply:
    return echoed(req)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
async def echo(req: Req) -> Reply:
    asked: dict[str, Any] = {"check_interval": float(EVERY)} if EVERY else {}
    task = await echo_task.kiq(req)
    result = await task.wait_result(timeout=15, **asked)
    result.raise_for_error()
    return Reply.model_validate(result.return_value)

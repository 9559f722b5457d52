"""The same work behind FastStream: a request over Redis (a list) or NATS, and its reply.

The web application is here, and so is what `faststream run` runs.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from faststream import FastStream

from work import Reply, Req, echoed

URL = os.environ["BENCH_BROKER"]

if URL.startswith("redis"):
    from faststream.redis import RedisBroker

    broker = RedisBroker(URL, logger=None)
    subscriber, to = broker.subscriber(list="echo"), {"list": "echo"}
else:
    from faststream.nats import NatsBroker

    broker = NatsBroker(URL, logger=None)
    subscriber, to = broker.subscriber("echo", queue="workers"), {"subject": "echo"}


@subscriber
def echo_work(req: Req) -> Reply:
    return echoed(req)


service = FastStream(broker)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await broker.connect()
    yield
    await broker.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
async def echo(req: Req) -> Reply:
    answer = await broker.request(req, timeout=15, **to)
    return Reply.model_validate_json(answer.body)

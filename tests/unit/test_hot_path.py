"""What one request costs on the event loop, counted and compared to a recorded figure.

Time cannot be asserted on a shared machine; the number of calls can. The application is called as a server would call
it, with its loops really running, one request after the other. Calls are those of Python functions and
of C functions on the event loop's thread, asyncio's own included. The smallest of several batches counts: whatever
comes in between only ever adds.

The figures depend on the versions of Python and of the packages; `make figures` records them anew, on purpose.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from fastapi import FastAPI

from offloop import Offloop, Settings
from offloop.fastapi import OffloopRouter

FIGURES = Path(__file__).parents[1] / "figures" / "hot_path.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BATCHES = 12
REQUESTS = 100
GROWTH = 1.1
SPARE_BLOCKS = 0.5
"""Net blocks a request may leave behind before it is called a leak; a real one leaves at least one."""

BODY = json.dumps({"n": 1, "payload": "x" * 128}).encode()
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/echo",
    "raw_path": b"/echo",
    "query_string": b"",
    "root_path": "",
    "headers": [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}


async def one_request(app: FastAPI) -> list[dict[str, Any]]:
    """As a server does it: the body at once, then nothing until the client goes, which it does not."""
    sent: list[dict[str, Any]] = []
    bodies = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({**SCOPE, "headers": [*SCOPE["headers"]], "state": {}}, receive, send)
    return sent


async def calls_per_request(request: Callable[[], Awaitable[object]]) -> float:
    """Calls on this thread, in a batch of requests, each divided among them."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    sys.setprofile(count)
    try:
        for _ in range(REQUESTS):
            await request()
    finally:
        sys.setprofile(None)
    return calls / REQUESTS


async def blocks_per_request(request: Callable[[], Awaitable[object]]) -> float:
    """Blocks of memory that many requests leave behind, in the whole process; what comes and goes evens out."""
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(BATCHES * REQUESTS):
        await request()
    gc.collect()
    return (sys.getallocatedblocks() - before) / (BATCHES * REQUESTS)


async def counted(mode: Literal["thread", "process"]) -> dict[str, float]:
    off = Offloop("tests.figures.echo", settings=Settings(mode=mode, workers=1))
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    async with app.router.lifespan_context(app):
        gc.disable()  # a collection in the middle of a batch runs finalizers, which are calls
        try:
            for _ in range(REQUESTS):
                sent = await one_request(app)
            assert sent[0]["status"] == 200
            assert json.loads(sent[1]["body"]) == {"n": 1, "size": 128}
            calls = [await calls_per_request(lambda: one_request(app)) for _ in range(BATCHES)]
            blocks = await blocks_per_request(lambda: one_request(app))
        finally:
            gc.enable()
    return {"calls": min(calls), "blocks": max(0.0, blocks)}


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_request_costs_no_more_than_a_tenth_above_the_recorded_figure(mode):
    found = asyncio.run(counted(mode))
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if os.environ.get("RECORD_FIGURES"):
        figures.setdefault(PYTHON, {})[mode] = found
        FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
        return
    if PYTHON not in figures:
        pytest.skip(f"no figure is recorded for Python {PYTHON}: `make figures` does so")
    recorded = figures[PYTHON][mode]
    assert found["calls"] <= recorded["calls"] * GROWTH, "calls per request; if meant, `make figures`"
    assert found["blocks"] <= recorded["blocks"] * GROWTH + SPARE_BLOCKS, "a request leaves memory behind"

import json
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from offloop import Offloop, Settings
from offloop.fastapi import OffloopRouter, OperatorRouter
from tests.unit.fastapi import program
from tests.unit.fastapi.asgi import Caller

PROGRAM = "tests.unit.fastapi.program"


@pytest.fixture
def off() -> Offloop:
    program.OPEN.set()
    return Offloop(PROGRAM, settings=Settings(threads=1, gc_freeze=False))


def app_of(off: Offloop) -> FastAPI:
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    app.include_router(OperatorRouter(off), prefix="/offloop")
    return app


def test_all_is_well(off):
    with TestClient(app_of(off)) as client:
        assert client.get("/offloop/livez").json() == {"status": "alive"}
        assert client.get("/offloop/readyz").json() == {"status": "ready"}
        status = client.get("/offloop/status")
        assert status.json()["endpoints"]["count"] == {"in_flight": 0, "limit": 100}
        assert status.headers["cache-control"] == "no-store"
        metrics = client.get("/offloop/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'offloop_in_flight_limit{endpoint="count"} 100.0' in metrics.text


async def test_readiness_is_false_from_the_instant_a_drain_begins(off):
    app = app_of(off)
    async with app.router.lifespan_context(app):
        off.begin_drain()
        headers = [(b"x-request-id", b"probe-1")]
        caller = await Caller(app, "/offloop/readyz", method="GET", headers=headers).answered()
        assert caller.status == 503
        assert caller.headers[b"content-type"] == b"application/problem+json"
        assert caller.headers[b"connection"] == b"close"
        assert caller.headers[b"retry-after"] == b"1"
        assert (caller.json["reason"], caller.json["request_id"]) == ("draining", "probe-1")
        alive = await Caller(app, "/offloop/livez", method="GET").answered()
        assert alive.status == 200


def test_before_the_start_it_is_alive_and_not_ready(off):
    client = TestClient(app_of(off))  # without `with`: nothing is started
    assert client.get("/offloop/livez").status_code == 200
    answer = client.get("/offloop/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "backend-unavailable")
    assert client.get("/offloop/status").json()["ready"] is False
    assert client.get("/offloop/metrics").status_code == 200


async def test_they_answer_on_the_event_loop_itself(off, monkeypatch):
    app = app_of(off)
    async with app.router.lifespan_context(app):
        started: list[str] = []
        monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
        for path in ("livez", "readyz", "metrics", "status"):
            assert (await Caller(app, f"/offloop/{path}", method="GET").answered()).status == 200
        assert started == []


def test_they_are_documented(off):
    document = app_of(off).openapi()
    for name in ("livez", "readyz", "metrics", "status"):
        assert document["paths"][f"/offloop/{name}"]["get"]["responses"]["200"]["content"]
    ready = document["paths"]["/offloop/readyz"]["get"]["responses"]
    assert list(ready["503"]["content"]) == ["application/problem+json"]
    assert list(document["paths"]["/offloop/metrics"]["get"]["responses"]["200"]["content"]) == [
        "text/plain; version=0.0.4; charset=utf-8"
    ]
    assert "422" not in ready
    json.dumps(document)

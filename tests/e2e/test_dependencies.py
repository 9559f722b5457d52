"""Dependencies: wherever they are declared, they hold for every offloop and operator route, before admission.

In thread mode only: they run before anything is handed to a loop, wherever that is.
"""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader
from starlette.testclient import TestClient

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers

KEY = APIKeyHeader(name="x-key", auto_error=False)
ROUTES = [
    ("POST", "/echo"), ("GET", "/items/1"), ("PUT", "/items/1"), ("POST", "/blobs"), ("POST", "/letters"),
    ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/status"),
]  # fmt: skip


def guard(key: Annotated[str | None, Security(KEY)]) -> str:
    if key != "open sesame":
        raise HTTPException(401, "no key")
    return key


def on_the_app(off: Offloop) -> FastAPI:
    app = FastAPI(exception_handlers=exception_handlers, dependencies=[Depends(guard)])
    app.include_router(OffloopRouter(off))
    app.include_router(OperatorRouter(off))
    return app


def on_the_include(off: Offloop) -> FastAPI:
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(off), dependencies=[Depends(guard)])
    app.include_router(OperatorRouter(off), dependencies=[Depends(guard)])
    return app


def on_the_router(off: Offloop) -> FastAPI:
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(off, dependencies=[Depends(guard)]))
    app.include_router(OperatorRouter(off, dependencies=[Depends(guard)]))
    return app


def on_an_outer_router(off: Offloop) -> FastAPI:
    app = FastAPI(exception_handlers=exception_handlers)
    outer = APIRouter(dependencies=[Depends(guard)])
    outer.include_router(OffloopRouter(off))
    outer.include_router(OperatorRouter(off))
    app.include_router(outer)
    return app


PLACES = [on_the_app, on_the_include, on_the_router, on_an_outer_router]


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def guarded(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(request.param(Offloop("tests.e2e.programs.nodes"))) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_the_key_every_route_answers_401(guarded: TestClient, method: str, path: str) -> None:
    answer = guarded.request(method, path, json={"n": 1} if method != "GET" else None)
    assert (answer.status_code, answer.json()) == (401, {"detail": "no key"})


def test_with_the_key_they_answer(guarded: TestClient) -> None:
    guarded.headers["x-key"] = "open sesame"
    assert guarded.post("/echo", json={"n": 5}).json()["n"] == 5
    assert guarded.get("/items/3").json()["item"] == 3
    assert guarded.get("/readyz").status_code == 200
    assert guarded.get("/echo").status_code == 405


def test_the_scheme_is_in_the_openapi_document_of_every_route(guarded: TestClient) -> None:
    guarded.headers["x-key"] = "open sesame"
    said = guarded.get("/openapi.json").json()
    assert said["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "x-key"
    for path, item in said["paths"].items():
        for operation in item.values():
            assert {"APIKeyHeader": []} in operation["security"], path


def test_a_refused_caller_takes_no_place(guarded: TestClient) -> None:
    for _ in range(20):
        guarded.post("/echo", json={"n": 1})
    guarded.headers["x-key"] = "open sesame"
    counted = re.findall(r'(?:requests|rejected)_total\{endpoint="echo".*\} (.*)', guarded.get("/metrics").text)
    assert {float(count) for count in counted} == {0.0}


def test_dependencies_with_yield_and_overrides_work() -> None:
    seen: list[str] = []

    async def around() -> AsyncIterator[None]:
        seen.append("before")
        yield
        seen.append("after")

    off = Offloop("tests.e2e.programs.nodes")
    app = on_the_app(off)
    app.dependency_overrides[guard] = lambda: "anyone"
    app.include_router(OffloopRouter(off, dependencies=[Depends(around)]), prefix="/v2")
    with TestClient(app) as client:
        assert client.post("/v2/echo", json={"n": 1}).status_code == 200
        assert client.post("/echo", json={"n": 1}).status_code == 200
    assert seen == ["before", "after"]


def test_the_body_limit_of_the_app_holds() -> None:
    off = Offloop("tests.e2e.programs.nodes")
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(off), max_body_size=100)
    with TestClient(app) as client:
        assert client.post("/echo", json={"n": 1}).status_code == 200
        assert client.post("/echo", json={"n": 1, "text": "x" * 200}).status_code == 413


def test_an_unguarded_route_and_a_guarded_one_stand_side_by_side() -> None:
    off = Offloop("tests.e2e.programs.nodes")
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(off), prefix="/open")
    app.include_router(OffloopRouter(off, dependencies=[Depends(guard)]), prefix="/closed")
    with TestClient(app) as client:
        assert client.post("/open/echo", json={"n": 1}).status_code == 200
        assert client.post("/closed/echo", json={"n": 1}).status_code == 401

"""Shortcuts change how fast a request finds its endpoint, and nothing else."""

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Route, Router
from starlette.testclient import TestClient

from offloop import Offloop
from offloop.fastapi import OffloopRouter, OperatorRouter
from offloop.fastapi.shortcuts import Front, Shortcuts

PROGRAM = "tests.e2e.programs.nodes"
ECHO = {"n": 1}


def app_of(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(OffloopRouter(Offloop(PROGRAM)))
    return app


def has_front(app: FastAPI) -> bool:
    return isinstance(app.middleware_stack, Front)


def shortcuts_of(app: FastAPI) -> list[Shortcuts]:
    return [route for route in app.router.routes if isinstance(route, Shortcuts)]


def test_they_are_there_while_the_app_lives_and_not_longer() -> None:
    app = app_of()
    routes = list(app.router.routes)
    for _ in range(2):
        with TestClient(app) as client:
            assert has_front(app)
            assert len(shortcuts_of(app)) == 1
            for _ in range(3):
                assert client.post("/echo", json=ECHO).json()["n"] == 1
                assert client.get("/items/3").json()["item"] == 3
                assert client.get("/echo").status_code == 405
                assert client.post("/letters", params={"to": "Ada"}, content=b"Dear Ada").json()["size"] == 8
                assert client.get("/openapi.json").status_code == 200
            assert app.url_path_for("echo") == "/echo"
        assert app.router.routes == routes
        assert not has_front(app)


def test_middleware_sees_every_request() -> None:
    seen: list[str] = []

    class Counting(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            seen.append(request.url.path)
            return await call_next(request)

    app = app_of()
    app.add_middleware(Counting)
    with TestClient(app) as client:
        assert not has_front(app)
        for _ in range(3):
            assert client.post("/echo", json=ECHO).status_code == 200
    assert seen == ["/echo"] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"debug": True},
        {"exception_handlers": {Exception: lambda request, error: PlainTextResponse("mine", 500)}},
        {"exception_handlers": {500: lambda request, error: PlainTextResponse("mine", 500)}},
        {"max_body_size": 10_000},
    ],
    ids=["debug", "a handler of everything", "a handler of 500", "a limit on bodies"],
)
def test_an_app_with_something_of_its_own_keeps_its_stack(options: dict[str, Any]) -> None:
    app = app_of(**options)
    with TestClient(app) as client:
        assert not has_front(app)
        assert [client.post("/echo", json=ECHO).status_code for _ in range(2)] == [200, 200]


def test_an_app_that_builds_its_own_stack_keeps_it() -> None:
    class Own(FastAPI):
        def build_middleware_stack(self) -> Any:
            return super().build_middleware_stack()

    app = Own()
    app.include_router(OffloopRouter(Offloop(PROGRAM)))
    with TestClient(app) as client:
        assert not has_front(app)
        assert client.post("/echo", json=ECHO).status_code == 200


def test_a_guard_is_met_by_every_request() -> None:
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise HTTPException(401)

    app = FastAPI()
    app.include_router(OffloopRouter(Offloop(PROGRAM)), dependencies=[Depends(guard)])
    with TestClient(app) as client:
        assert has_front(app)
        assert [client.post("/echo", json=ECHO).status_code for _ in range(4)] == [200, 200, 401, 401]


def test_an_own_route_that_comes_first_stays_first() -> None:
    app = FastAPI()

    @app.post("/echo")
    def echo() -> str:
        return "mine"

    app.include_router(OffloopRouter(Offloop(PROGRAM)))
    with TestClient(app) as client:
        assert [client.post("/echo", json=ECHO).json() for _ in range(3)] == ["mine"] * 3


def test_a_route_that_looks_at_more_than_the_path_stays_in_front() -> None:
    app = FastAPI()
    elsewhere = Router(routes=[Route("/echo", lambda request: PlainTextResponse("elsewhere"), methods=["POST"])])
    app.router.routes.append(Host("other.test", elsewhere))
    app.include_router(OffloopRouter(Offloop(PROGRAM)))
    with TestClient(app) as client:
        assert not has_front(app)
        for _ in range(2):
            assert client.post("/echo", json=ECHO).json()["n"] == 1
            assert client.post("/echo", json=ECHO, headers={"host": "other.test"}).text == "elsewhere"


def test_other_routers_before_it_do_not_matter() -> None:
    app = FastAPI()
    mine = APIRouter()

    @mine.get("/mine")
    def get() -> str:
        return "mine"

    off = Offloop(PROGRAM)
    app.include_router(mine)
    app.include_router(OperatorRouter(off), prefix="/offloop")
    app.include_router(OffloopRouter(off), prefix="/v1")
    with TestClient(app) as client:
        assert has_front(app)
        for _ in range(2):
            assert client.get("/mine").json() == "mine"
            assert client.post("/v1/echo", json=ECHO).json()["n"] == 1
            assert client.get("/offloop/readyz").status_code == 200


def test_a_router_that_is_included_twice_has_shortcuts_twice() -> None:
    app = FastAPI()
    router = OffloopRouter(Offloop(PROGRAM))
    app.include_router(router, prefix="/one")
    app.include_router(router, prefix="/two")
    with TestClient(app) as client:
        assert len(shortcuts_of(app)) == 2
        for _ in range(2):
            assert [client.post(f"/{name}/echo", json=ECHO).status_code for name in ("one", "two")] == [200, 200]
    assert shortcuts_of(app) == []


def test_below_a_root_path_requests_are_matched_as_ever() -> None:
    with TestClient(app_of(), root_path="/api") as client:
        for _ in range(2):
            assert client.post("/echo", json=ECHO).status_code == 200
            assert client.post("/api/echo", json=ECHO).status_code == 200


def test_a_router_that_changed_is_matched_as_ever() -> None:
    router = OffloopRouter(Offloop(PROGRAM))
    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as client:
        assert client.post("/echo", json=ECHO).json()["n"] == 1
        router.add_api_route("/new", lambda: "new")
        assert client.get("/new").json() == "new"
        assert client.post("/echo", json=ECHO).json()["n"] == 1

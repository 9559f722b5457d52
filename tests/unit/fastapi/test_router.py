import hashlib
import runpy
import sys
from contextlib import asynccontextmanager
from inspect import signature
from types import ModuleType
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Form, Header, HTTPException, Request, Security
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer
from fastapi.testclient import TestClient

from offloop import Offloop, Settings, errors
from offloop.fastapi import OffloopRouter, OperatorRouter
from offloop.fastapi import route as route_module
from tests.unit.fastapi import program

PROGRAM = "tests.unit.fastapi.program"


@pytest.fixture
def off() -> Offloop:
    program.OPEN.set()
    return Offloop(PROGRAM, settings=Settings(threads=1, gc_freeze=False))


def key(x_key: Annotated[str, Header()] = "") -> str:
    if x_key != "right":
        raise HTTPException(401, "no key", headers={"WWW-Authenticate": "Key"})
    return x_key


GUARD = Depends(key)
RIGHT = {"X-Key": "right"}
ROUTES = [
    ("POST", "/texts", {"json": {"text": "a b"}}, 201),
    ("PUT", "/people/7", {"json": {"name": "Ada"}}, 204),
    ("GET", "/shelves/top/books?words=a", {}, 200),
    ("POST", "/letters?to=Ada", {"content": b"%PDF", "headers": {"content-type": "application/pdf"}}, 200),
    ("POST", "/points", {"json": {"x": 1}}, 200),
    ("GET", "/livez", {}, 200),
    ("GET", "/readyz", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/status", {}, 200),
]


# ---- dependencies hold wherever they are given


def of_the_app(off: Offloop) -> FastAPI:
    app = FastAPI(dependencies=[GUARD])
    app.include_router(OffloopRouter(off))
    app.include_router(OperatorRouter(off))
    return app


def of_the_inclusion(off: Offloop) -> FastAPI:
    app = FastAPI()
    app.include_router(OffloopRouter(off), dependencies=[GUARD])
    app.include_router(OperatorRouter(off), dependencies=[GUARD])
    return app


def of_the_router(off: Offloop) -> FastAPI:
    app = FastAPI()
    app.include_router(OffloopRouter(off, dependencies=[GUARD]))
    app.include_router(OperatorRouter(off, dependencies=[GUARD]))
    return app


def of_an_outer_router(off: Offloop) -> FastAPI:
    outer = APIRouter(dependencies=[GUARD])
    outer.include_router(OffloopRouter(off))
    outer.include_router(OperatorRouter(off))
    app = FastAPI()
    app.include_router(outer)
    return app


def of_an_inclusion_further_out(off: Offloop) -> FastAPI:
    inner, outer = APIRouter(), APIRouter()
    inner.include_router(OffloopRouter(off))
    inner.include_router(OperatorRouter(off))
    outer.include_router(inner, dependencies=[GUARD])
    app = FastAPI()
    app.include_router(outer)
    return app


def of_an_inclusion_made_later(off: Offloop) -> FastAPI:
    outer = APIRouter()
    app = FastAPI(dependencies=[GUARD])
    app.include_router(outer)
    outer.include_router(OffloopRouter(off))
    outer.include_router(OperatorRouter(off))
    app.router.lifespan_context = outer.lifespan_context  # FastAPI merges it at the time of the inclusion
    return app


LEVELS = [
    of_the_app,
    of_the_inclusion,
    of_the_router,
    of_an_outer_router,
    of_an_inclusion_further_out,
    of_an_inclusion_made_later,
]


@pytest.mark.parametrize("level", LEVELS)
def test_without_the_key_every_route_answers_401_and_with_it_as_ever(off, level):
    with TestClient(level(off)) as client:
        for method, url, options, status in ROUTES:
            refused = client.request(method, url, **options)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Key"), url
            headers = {**options.get("headers", {}), **RIGHT}
            assert client.request(method, url, **{**options, "headers": headers}).status_code == status, url
        admitted = [line for line in client.get("/metrics", headers=RIGHT).text.splitlines() if "_total{" in line]
        assert sum(float(line.split()[-1]) for line in admitted if "requests_total" in line) == 5


def test_a_router_included_twice_is_guarded_only_where_it_is_guarded(off):
    app, router = FastAPI(), OffloopRouter(off)
    app.include_router(router, prefix="/open")
    app.include_router(router, prefix="/closed", dependencies=[GUARD])
    with TestClient(app) as client:
        for _ in range(2):
            assert client.post("/open/texts", json={"text": "a"}).status_code == 201
            assert client.post("/closed/texts", json={"text": "a"}).status_code == 401
            assert client.post("/closed/texts", json={"text": "a"}, headers=RIGHT).status_code == 201
    assert off.gateway is None


def test_dependencies_run_before_admission_and_before_the_body_is_read(off):
    app = FastAPI(dependencies=[GUARD])
    app.include_router(OffloopRouter(off))
    with TestClient(app) as client:
        assert client.post("/texts", content=b"x" * 2**21).status_code == 401
        assert client.post("/texts", content=b"x", headers={"content-type": "text/plain"}).status_code == 401
        assert off.status()["refused"] == 0


def test_a_dependency_sees_the_path_of_its_inclusion(off):
    seen: list[tuple[str, str]] = []

    def look(tenant: str, shelf: str) -> None:
        seen.append((tenant, shelf))

    app = FastAPI()
    app.include_router(OffloopRouter(off, program.search), prefix="/{tenant}", dependencies=[Depends(look)])
    with TestClient(app) as client:
        assert client.get("/blue/shelves/top/books?words=a").json() == ["top", "a", "10"]
    assert seen == [("blue", "top")]


def test_a_dependency_that_yields_is_left_after_the_answer_and_background_tasks_run(off):
    story: list[str] = []

    async def held(tasks: BackgroundTasks):
        story.append("in")
        tasks.add_task(story.append, "background")
        yield
        story.append("out")

    app = FastAPI(dependencies=[Depends(held)])
    app.include_router(OffloopRouter(off))
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 201
    assert story == ["in", "background", "out"]


def test_overrides_hold(off):
    app = of_the_app(off)
    app.dependency_overrides[key] = lambda: "fine"
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 201
        app.dependency_overrides.clear()
        assert client.post("/texts", json={"text": "a"}).status_code == 401


def test_an_apps_exception_handler_answers_for_a_dependency(off):
    class Stop(Exception):
        pass

    async def stop() -> None:
        raise Stop

    async def handle(request: Request, error: Exception) -> fastapi.Response:
        return fastapi.Response("stopped", 418)

    app = FastAPI(dependencies=[Depends(stop)], exception_handlers={Stop: handle})
    app.include_router(OffloopRouter(off))
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 418


def test_security_schemes_with_their_scopes_are_in_the_document(off):
    oauth = OAuth2PasswordBearer("/token", scopes={"read": "Read"})
    app = FastAPI(dependencies=[Depends(APIKeyHeader(name="X-Key"))])
    app.include_router(OffloopRouter(off), dependencies=[Security(oauth, scopes=["read"])])
    operation = app.openapi()["paths"]["/texts"]["post"]
    assert operation["security"] == [{"APIKeyHeader": []}, {"OAuth2PasswordBearer": ["read"]}]
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code in (401, 403)


def test_a_dependency_may_look_at_the_raw_body_and_the_endpoint_still_gets_it(off):
    seen: list[str] = []

    async def signed(request: Request) -> None:
        seen.append(hashlib.sha256(await request.body()).hexdigest())

    app = FastAPI(dependencies=[Depends(signed)])
    app.include_router(OffloopRouter(off))
    with TestClient(app) as client:
        assert client.post(
            "/texts", content=b'{"text": "a b"}', headers={"content-type": "application/json"}
        ).json() == {"words": 2}
    assert seen == [hashlib.sha256(b'{"text": "a b"}').hexdigest()]


def test_a_dependency_that_declares_a_part_of_the_body_stops_the_start_and_is_named(off):
    def inner(token: Annotated[str, Form()]) -> str:
        return token

    def outer(token: Annotated[str, Depends(inner)]) -> None: ...

    app = FastAPI(dependencies=[Depends(outer)])
    app.include_router(OffloopRouter(off))
    with pytest.raises(errors.UsageError, match=r"inner reads `token` from the body"), TestClient(app):
        pass
    with pytest.raises(errors.UsageError, match=r"inner reads `token` from the body"):
        TestClient(app).post("/texts", json={"text": "a"})


# ---- inclusion


def test_prefix_tags_responses_and_schema_options_hold(off):
    app = FastAPI(responses={418: {"description": "Teapot"}})
    router = OffloopRouter(off, program.count, prefix="/v1", tags=["a"], responses={402: {"description": "Pay"}})
    app.include_router(router, prefix="/api", tags=["b"])
    operation = app.openapi()["paths"]["/api/v1/texts"]["post"]
    assert operation["tags"] == ["b", "a"]
    assert operation["responses"]["402"]["description"] == "Pay"
    assert operation["responses"]["418"]["description"] == "Teapot"
    hidden = FastAPI()
    hidden.include_router(OffloopRouter(off, include_in_schema=False))
    assert hidden.openapi()["paths"] == {}
    assert "components" not in hidden.openapi()
    with TestClient(app) as client:
        assert client.post("/api/v1/texts", json={"text": "a"}).status_code == 201
        assert client.post("/texts", json={"text": "a"}).status_code == 404


def test_only_the_named_endpoints_have_routes(off):
    app = FastAPI()
    app.include_router(OffloopRouter(off, program.count, program.union))
    assert set(app.openapi()["paths"]) == {"/texts", "/union"}


def test_an_endpoint_without_http_is_refused_by_name_and_passed_over_otherwise(off):
    with pytest.raises(errors.UsageError, match="quiet"):
        OffloopRouter(off, program.quiet)
    assert "quiet" not in [route.name for route in OffloopRouter(off).routes]


def test_what_is_no_endpoint_of_the_program_is_refused(off):
    with pytest.raises(errors.UsageError):
        OffloopRouter(off, key)


@pytest.mark.parametrize("prefix", ["", "/sub"])
def test_another_method_is_405_with_allow(off, prefix):
    app = FastAPI()
    app.include_router(OffloopRouter(off), prefix=prefix)
    with TestClient(app) as client:
        answer = client.get(f"{prefix}/texts")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_router_serves_by_itself_and_in_an_apps_own_list(off):
    router = OffloopRouter(off, dependencies=[GUARD])
    app = FastAPI(lifespan=router.lifespan_context, routes=router.routes)
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 401
        assert client.post("/texts", json={"text": "a"}, headers=RIGHT).status_code == 201
        assert client.get("/texts").status_code == 405
    with TestClient(OffloopRouter(off)) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 201


@pytest.mark.skipif("max_body_size" not in signature(FastAPI).parameters, reason="FastAPI has no such limit yet")
@pytest.mark.parametrize("limited", ["app", "inclusion", "router"])
def test_a_limit_of_fastapis_own_on_bodies_holds(off, limited):
    def limit(where: str) -> dict[str, Any]:
        return {"max_body_size": 20} if where == limited else {}

    app = FastAPI(**limit("app"))
    app.include_router(OffloopRouter(off, **limit("router")), **limit("inclusion"))
    with TestClient(app) as client:
        assert client.post("/texts", json={"text": "a"}).status_code == 201
        assert client.post("/texts", json={"text": "a" * 20}).status_code == 413
        assert off.status()["endpoints"]["count"]["in_flight"] == 0


def test_paths_of_the_app_beside_it_are_left_alone(off):
    app = FastAPI()
    app.include_router(OffloopRouter(off), prefix="/v1")

    @app.get("/v1/")
    async def home() -> str:
        return "home"

    with TestClient(app) as client:
        assert client.get("/v1/").json() == "home"


# ---- life


def test_the_lifespan_that_the_user_gave_runs_while_the_loops_do(off):
    story: list[Any] = []

    @asynccontextmanager
    async def theirs(app):
        story.append(await off.ask(program.count, program.Text(text="a b")))
        yield {"shared": 1}
        story.append(off.ready)

    app = FastAPI()
    app.include_router(OffloopRouter(off, lifespan=theirs))

    @app.get("/state")
    async def state(request: Request) -> int:
        return request.state.shared

    with TestClient(app) as client:
        assert client.get("/state").json() == 1
    assert story == [program.Count(words=2), True]
    assert off.gateway is None


def test_a_plain_generator_and_none_are_lifespans_too(off):
    async def generator(app):
        yield

    for given in (generator, None):
        app = FastAPI(lifespan=generator)
        app.include_router(OffloopRouter(off, lifespan=given))
        with TestClient(app) as client:
            assert client.post("/texts", json={"text": "a"}).status_code == 201


# ---- it fails closed


def test_a_fastapi_that_cannot_tell_a_routes_inclusion_is_refused_at_import(monkeypatch):
    other = ModuleType("fastapi.routing")
    other.__dict__.update(vars(sys.modules["fastapi.routing"]))
    del other.__dict__["_get_scope_effective_route_context"]
    monkeypatch.setitem(sys.modules, "fastapi.routing", other)
    with pytest.raises(ImportError, match=r"0\.137"):
        runpy.run_path(route_module.__file__)


async def test_that_dependencies_are_met_is_proven_once_and_otherwise_nothing_starts(off, monkeypatch):
    monkeypatch.setattr(route_module.OffloopRoute, "proven", False)
    await route_module.prove()
    assert route_module.OffloopRoute.proven
    monkeypatch.setattr(route_module.OffloopRoute, "proven", False)
    monkeypatch.setattr(route_module, "inclusion_of", lambda scope: None)  # it exists, and means something else
    app = FastAPI(dependencies=[GUARD])
    app.include_router(OffloopRouter(off))
    with pytest.raises(errors.UsageError, match="nothing is served"):
        async with app.router.lifespan_context(app):
            pass
    assert off.gateway is None

"""The OpenAPI document and what is really answered: each is held against the other."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator, meta
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from offloop import Offloop, errors
from offloop.demo import app as demo
from tests.e2e.conftest import APP
from tests.e2e.programs import app as program
from tests.e2e.test_rloop import wait_in_flight
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Answer, Wire
from tests.unit.demo.pdfs import pdf

PROBLEM = "application/problem+json"
FASTAPIS = "invalid-payload"
"""The one row that has FastAPI's own shape."""
NEVER_SENT = "cancelled"

# ---- the document by itself

APPS = {"demo": (demo.app, demo.off), "program": (program.app, program.off)}


@pytest.fixture(params=APPS.values(), ids=APPS)
def documented(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Offloop]:
    app, off = request.param
    assert isinstance(app, FastAPI)
    # As a client gets it: what JSON cannot hold is not in it.
    return json.loads(json.dumps(app.openapi())), off


def operations(document: dict[str, Any], off: Offloop) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every endpoint that has `http=`, with what the document says of it."""
    for endpoint in off.program.endpoints.values():
        if endpoint.http is not None:
            method, path = endpoint.http.split()
            yield endpoint.name, document["paths"][path][method.lower()]


def test_it_is_an_openapi_3_1_document(documented: tuple[dict[str, Any], Offloop]) -> None:
    document, _ = documented
    assert document["openapi"].startswith("3.1.")
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in schemas(document):
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a document; the one of OpenAPI itself says nothing of what is in them."""
    if isinstance(part, list):
        for item in part:
            yield from schemas(item)
    elif isinstance(part, dict):
        for name, item in part.items():
            if name == "schema":
                yield item
            elif name == "schemas":
                yield from item.values()
            elif name not in ("example", "examples"):
                yield from schemas(item)


def test_every_way_to_fail_is_in_every_endpoint_with_an_example_that_fits(
    documented: tuple[dict[str, Any], Offloop],
) -> None:
    document, off = documented
    for name, operation in operations(document, off):
        shown = set()
        for status, response in operation["responses"].items():
            for reason, example in response.get("content", {}).get(PROBLEM, {}).get("examples", {}).items():
                said = example["value"]
                assert (said["reason"], str(said["status"]), said["endpoint"]) == (reason, status, name)
                assert said["type"] == f"urn:offloop:problem:{reason}"
                shown.add((reason, said["status"]))
        declared = {(problem.reason, problem.status) for problem in off.program.endpoints[name].problems}
        assert shown == rows() | declared, name
        said = operation["responses"]["422"]["content"]["application/json"]["example"]
        assert set(said["detail"][0]) == {"type", "loc", "msg", "input"}


def rows() -> set[tuple[str, int]]:
    """What a caller can meet at any endpoint, with its status; a drain cuts with either of two."""
    found = {(reason, error.status) for reason, error in errors.BY_REASON.items()}
    not_as_problems = {(reason, errors.BY_REASON[reason].status) for reason in (FASTAPIS, NEVER_SENT)}
    return found - not_as_problems | {("drain-cut", 503)}


def test_every_example_fits_the_schema_that_it_stands_beside(documented: tuple[dict[str, Any], Offloop]) -> None:
    document, off = documented
    for name, operation in operations(document, off):
        for status, response in operation["responses"].items():
            for media in response.get("content", {}).values():
                said = [example["value"] for example in media.get("examples", {}).values()]
                for value in [*said, *([media["example"]] if "example" in media else [])]:
                    assert fits(document, media["schema"], value), (name, status, value)


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is of a schema that refers to the document's components."""
    text = json.dumps({**schema, "$defs": document["components"]["schemas"]})
    return Draft202012Validator(json.loads(text.replace("#/components/schemas/", "#/$defs/"))).is_valid(value)


# ---- answers, held against the document


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return answer


def conforms(document: dict[str, Any], operation: str, answer: httpx.Response | Answer) -> str:
    """Assert that an answer is one that the document describes, with all its headers; says which reason it has."""
    method, path = operation.split()
    status = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    response = document["paths"][path][method.lower()]["responses"][str(status)]
    for name in ("X-Request-ID", "Retry-After"):
        assert (name.lower() in answer.headers) == (name in response.get("headers", {})), name
    media = response["content"][answer.headers["content-type"]]
    said = answer.json()
    assert fits(document, media["schema"], said), said
    if answer.headers["content-type"] == PROBLEM:
        assert media["schema"] == {"$ref": "#/components/schemas/OffloopProblem"}
        assert said["reason"] in media["examples"]
        example = media["examples"][said["reason"]]["value"]
        same = {"type", "title", "status", "endpoint", "started", "retry_safe"}
        assert {name: said[name] for name in same} == {name: example[name] for name in same}
    return str(said.get("reason", "")) if isinstance(said, dict) else ""


def test_what_is_answered_at_once_is_as_documented(document: dict[str, Any], client: httpx.Client) -> None:
    def posted(path: str, **options: Any) -> str:
        return conforms(document, f"POST {path}", client.post(path, **options))

    pdf_type = {"content-type": "application/pdf"}
    assert posted("/echo", json={"n": 1}) == ""
    assert posted("/echo", json={"n": "many"}) == ""  # 422, in FastAPI's shape
    assert posted("/echo", content=b"1", headers={"content-type": "text/plain"}) == "unsupported-media-type"
    assert posted("/blobs", content=b"x" * (2**20 + 1), headers=pdf_type) == "payload-too-large"
    assert posted("/refused", json={"how": "pages"}) == "too-many-pages"
    assert posted("/refused", json={"how": "gone"}) == "gone"
    assert posted("/failing", json={"how": "raise"}) == "node-failed"
    assert posted("/failing", json={"how": "silence"}) == "no-reply"


def test_what_is_answered_late_is_as_documented(document: dict[str, Any], server: Server, gate: Gate) -> None:
    with Wire(server.port) as wire:
        wire.head("POST /brief", content_type="application/json", content_length="100")
        assert conforms(document, "POST /brief", wire.answer()) == "upload-timeout"
    late = httpx.post(f"{server.url}/brief", json={"name": "documented"})
    assert conforms(document, "POST /brief", late) == "deadline-exceeded"
    gate.wait("documented")
    gate.open("documented")


def test_what_is_answered_under_load_is_as_documented(document: dict[str, Any], mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(1, queue_limit=7)) as small, ThreadPoolExecutor(8) as callers:
        url = f"{small.url}/gated"
        first = callers.submit(httpx.post, url, json={"name": "load"}, timeout=30)
        gate.wait("load")
        expired = httpx.post(f"{small.url}/echo", json={"n": 1}, headers={"x-request-timeout": "0.1"})
        assert conforms(document, "POST /echo", expired) == "expired-in-queue"
        waiting = [callers.submit(httpx.post, url, json={"name": "load"}, timeout=30) for _ in range(7)]
        wait_in_flight(small, "gated", 8)
        assert conforms(document, "POST /echo", httpx.post(f"{small.url}/echo", json={"n": 1})) == "queue-full"
        assert conforms(document, "POST /gated", httpx.post(url, json={"name": "load"})) == "endpoint-busy"
        for _ in range(8):
            gate.wait("load")
            gate.open("load")
        assert {caller.result().status_code for caller in [first, *waiting]} == {200}


# ---- answers to whatever can be asked, held against the document by schemathesis

DOCUMENTS = Path(demo.__file__).parent / "documents"
PDFS = [*(path.read_bytes() for path in sorted(DOCUMENTS.glob("note*.pdf"))), pdf("The event loop."), pdf("One", "Two")]
schemathesis.openapi.media_type("application/pdf", st.sampled_from(PDFS))

CONFIG = {
    "seed": 20,
    "generation": {"deterministic": True},
    "warnings": False,  # of what schemathesis could not reach; what has to be reached is asserted
}
EXAMPLES = settings(
    max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SEEN: dict[Mode, set[tuple[str, int]]] = {mode: set() for mode in Mode}
SHORTENED = {"upload-timeout", "expired-in-queue", "deadline-exceeded"}
"""What a caller meets who leaves too little time by `X-Request-Timeout`, whatever else was right or wrong."""


def schema_of(app: FastAPI) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(app.openapi(), config=schemathesis.Config.from_dict(CONFIG))


DEMO = schema_of(demo.app)
PROGRAM = schema_of(program.app).include(
    # What waits at the gate would wait for ever; routes of one's own document what they like.
    path_regex="^/(echo|items/{item}|blobs|anything|letters|refused|failing|offloop/[a-z]+)$"
)

EXCLUDED: dict[str, list[Any]] = {
    # A body of any type, and which bytes are a PDF no schema says: the program refuses the others, by problems.
    "/documents/keywords": [positive_data_acceptance],
    "/compare/async": [positive_data_acceptance],
    "/compare/def": [positive_data_acceptance],
    # pydantic makes a number of `false` and of "1", as in any route of FastAPI's; a JSON schema knows neither.
    "/echo": [negative_data_rejection],
    "/items/{item}": [
        negative_data_rejection,
        # Starlette names the methods of the first of the routes that share a path.
        allow_header_conformance,
    ],
    # What comes back is what was sent, under the type it came with, of which it need not be.
    "/anything": [response_schema_conformance],
    # Its fields are in the query beside a raw body and in a form of its own: which, a document cannot say.
    "/letters": [positive_data_acceptance, negative_data_rejection],
    "/refused": [positive_data_acceptance],  # it refuses everything
    "/failing": [positive_data_acceptance, not_a_server_error],  # it is there to fail
}
"""Of all that schemathesis checks, what does not hold, and why."""


@pytest.fixture(scope="module")
def demonstration(mode: Mode) -> Iterator[Server]:
    with serving("offloop.demo.app:app", env=mode.env()) as server:
        yield server


@pytest.mark.parametrize("path", ["/documents", "/documents/keywords", "/compare/async", "/compare/def"])
def test_real_documents_are_answered_as_documented(demonstration: Server, path: str) -> None:
    document = demo.app.openapi()
    for data in PDFS:
        answer = httpx.post(demonstration.url + path, content=data, headers={"content-type": "application/pdf"})
        assert answer.status_code == 200
        assert conforms(document, f"POST {path}", answer) == ""
    answer = httpx.post(demonstration.url + path, content=b"", headers={"content-type": "application/pdf"})
    assert answer.json()["reason"] == "empty-pdf"


def test_a_real_document_is_streamed_as_documented(demonstration: Server) -> None:
    document = demo.app.openapi()
    headers = {"content-type": "application/pdf", "accept": "text/event-stream"}
    answer = httpx.post(f"{demonstration.url}/documents", content=pdf("One", "Two"), headers=headers)
    media = document["paths"]["/documents"]["post"]["responses"]["200"]["content"][answer.headers["content-type"]]
    assert fits(document, media["schema"], answer.text)
    events = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert [kind for kind in events if kind != "progress"] == ["chunk", "chunk", "reply"]


@DEMO.parametrize()
@EXAMPLES
def test_the_demo_answers_as_its_document_says(case: schemathesis.Case, mode: Mode, demonstration: Server) -> None:
    held_against_the_document(case, mode, demonstration)


@PROGRAM.parametrize()
@EXAMPLES
def test_the_program_answers_as_its_document_says(case: schemathesis.Case, mode: Mode, server: Server) -> None:
    held_against_the_document(case, mode, server)


def held_against_the_document(case: schemathesis.Case, mode: Mode, server: Server) -> None:
    answer = case.call(server.url)
    SEEN[mode].add((case.operation.label, answer.status_code))
    excluded = EXCLUDED.get(case.path, [])
    said = answer.json() if answer.headers.get("content-type") == [PROBLEM] else {}
    if "X-Request-Timeout" in (case.headers or {}) and said.get("reason") in SHORTENED:
        excluded = [*excluded, not_a_server_error, positive_data_acceptance, negative_data_rejection]
    case.validate_response(answer, excluded_checks=excluded)


def test_what_was_tried_succeeded_and_failed(mode: Mode) -> None:
    assert {
        ("POST /documents", 200), ("POST /documents", 415), ("POST /documents/keywords", 422),
        ("POST /texts/keywords", 200), ("POST /texts/keywords", 415), ("POST /texts/keywords", 422),
        ("GET /items/{item}", 200), ("GET /items/{item}", 422), ("PUT /items/{item}", 204), ("PUT /items/{item}", 422),
        ("POST /blobs", 200), ("POST /anything", 200), ("POST /letters", 200), ("POST /failing", 500),
        ("GET /offloop/status", 200), ("GET /offloop/metrics", 200), ("GET /offloop/readyz", 200),
    } <= SEEN[mode]  # fmt: skip

"""What leaves a server, in every mode: without OFFLOOP_DEBUG nothing of an exception, of the host or of the figures."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from offloop import errors
from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_in_flight
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import ROOT, Server, serving
from tests.support.wire import Answer, Wire

QUEUE_LIMIT, QUEUE_BYTES, MAX_REPLY = "13", "7654321", "31337"
NARROW: dict[str, Any] = {
    "queue_limit": QUEUE_LIMIT, "queue_bytes": QUEUE_BYTES, "max_reply": MAX_REPLY, "drain_timeout": 0.3, "debug": None,
}  # fmt: skip
MEMBERS = {
    "type", "title", "status", "detail", "instance", "reason", "request_id", "endpoint", "started", "retry_safe",
}  # fmt: skip
HEADERS = {
    "date", "server", "content-type", "content-length", "cache-control", "x-request-id", "retry-after", "connection",
    "transfer-encoding",
}  # fmt: skip
"""All that a failure's answer has; the first two and the last are the server's."""
LEAKS = re.compile(
    r"secret|Traceback|File \"|line \d|\.py\b|site-packages|<class|0x[0-9a-f]{6}|tests\.|offloop\.|pydantic_core"
    r"|\w*(?:Error|Exception|Interrupt|Exit|StopIteration|OffloopError)\b"
    rf"|{re.escape(str(ROOT))}|{re.escape(sys.prefix)}|{re.escape(str(Path.home()))}/"
    rf"|\b(?:{QUEUE_BYTES}|{MAX_REPLY})\b"
)
"""Texts of exceptions, names of their types, paths, and figures of the settings."""


@pytest.fixture(scope="module")
def narrow(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(1, **NARROW)) as server:
        yield server


def discreet(answer: httpx.Response | Answer) -> str:
    """Assert that a failure says what it may and nothing else; returns its reason."""
    text = answer.text if isinstance(answer, httpx.Response) else answer.body.decode()
    headers = dict(answer.headers)
    assert not LEAKS.search(text), text
    assert not LEAKS.search(json.dumps(headers)), headers
    assert headers.keys() <= HEADERS, headers
    said = answer.json()
    assert said.keys() == MEMBERS
    error = errors.BY_REASON[said["reason"]]
    assert (said["title"], said["detail"]) == (error.title, error.explanation)  # the same whatever happened
    return str(said["reason"])


@pytest.mark.parametrize("how", ["raise", "exit", "interrupt", "stop", "memory", "recursion", "base"])
def test_of_a_node_that_failed_nothing_is_told(narrow: Server, how: str) -> None:
    assert discreet(httpx.post(f"{narrow.url}/failing", json={"how": how})) == "node-failed"


def test_of_work_without_a_reply_nothing_is_told(narrow: Server) -> None:
    assert discreet(httpx.post(f"{narrow.url}/failing", json={"how": "silence"})) == "no-reply"


def test_of_a_reply_that_is_too_large_neither_its_size_nor_the_limit_is_told(narrow: Server) -> None:
    answer = httpx.post(f"{narrow.url}/anything", content=b"x" * 31338)
    assert discreet(answer) == "node-failed"
    assert "31338" not in answer.text


def test_of_refusals_no_figure_is_told(narrow: Server, gate: Gate) -> None:
    def posted(path: str, content: bytes = b'{"name": "figures", "n": 1}', kind: str = "application/json") -> str:
        headers = {"content-type": kind, "x-request-timeout": "5"}
        return discreet(httpx.post(narrow.url + path, content=content, headers=headers))

    assert posted("/echo", kind="text/plain") == "unsupported-media-type"
    assert posted("/echo", b"x" * (2**20 + 1)) == "payload-too-large"
    assert posted("/anything", b"x" * (int(QUEUE_BYTES) + 1), "image/png") == "queue-full"
    wires = [Wire(narrow.port) for _ in range(14)]
    try:
        for number, wire in enumerate(wires):
            wire.post("/gated" if number < 8 else "/assemblies", {"name": "figures"})
            if not number:
                gate.wait("figures")
        wait_in_flight(narrow, "assemble", 6)
        assert posted("/gated") == "endpoint-busy"
        assert posted("/echo") == "queue-full"
    finally:
        for wire in wires:
            wire.close()
    wait_in_flight(narrow, "gated", 0)
    wait_in_flight(narrow, "assemble", 0)
    gate.open("figures")


def test_of_deadlines_no_figure_is_told(narrow: Server, gate: Gate) -> None:
    with Wire(narrow.port) as wire:
        wire.head("POST /brief", content_type="application/json", content_length="100")
        assert discreet(wire.answer()) == "upload-timeout"
    assert discreet(httpx.post(f"{narrow.url}/brief", json={"name": "debug"})) == "deadline-exceeded"
    gate.wait("debug")
    late = httpx.post(f"{narrow.url}/echo", json={"n": 1}, headers={"x-request-timeout": "0.1"})
    assert discreet(late) == "expired-in-queue"
    gate.open("debug")


def test_a_drain_tells_nothing_of_what_is_left(mode: Mode, gate: Gate) -> None:
    with (
        serving("tests.e2e.programs.drainable:app", env=mode.env(1, **NARROW)) as server,
        Wire(server.port) as running,
        Wire(server.port) as queued,
        Wire(server.port) as late,
    ):
        running.post("/gated", {"name": "drained"})
        gate.wait("drained")
        queued.post("/gated", {"name": "drained"})
        wait_in_flight(server, "gated", 2)
        assert httpx.post(f"{server.url}/drain").status_code == 200
        late.post("/echo", {"n": 1})
        assert discreet(late.answer()) == "draining"
        assert [discreet(running.answer()), discreet(queued.answer())] == ["drain-cut", "drain-cut"]


def test_of_a_wrong_use_of_the_library_a_caller_hears_no_word(mode: Mode) -> None:
    with serving(APP, "--lifespan", "off", env=mode.env(debug=None)) as server:
        for path in ("/echo", "/own", "/own/sync"):
            answer = httpx.post(server.url + path, json={"n": 1})
            assert answer.status_code == 503
            assert discreet(answer) == "backend-unavailable"


def test_a_problem_tells_what_its_node_said_and_no_more(narrow: Server) -> None:
    answer = httpx.post(f"{narrow.url}/refused", json={"how": "pages"})
    assert answer.json().keys() == MEMBERS | {"pages", "limit"}
    assert not LEAKS.search(answer.text)
    assert not LEAKS.search(json.dumps(dict(answer.headers)))


def test_a_payload_that_does_not_validate_hears_of_itself_alone(narrow: Server) -> None:
    for content in (b'{"n": "many"}', b"{", b"\xff", b"null", b'{"n": 1e400}', b"[" * 5000):
        answer = httpx.post(f"{narrow.url}/echo", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        (fault,) = answer.json()["detail"]
        assert {"type", "loc", "msg"} <= fault.keys() <= {"type", "loc", "msg", "input", "ctx"}
        assert not LEAKS.search(answer.text), answer.text
        assert headers_of(answer) <= HEADERS


def headers_of(answer: httpx.Response) -> set[str]:
    return {name.lower() for name in answer.headers}


def test_the_document_tells_nothing_of_the_host_or_the_settings(narrow: Server) -> None:
    text = httpx.get(f"{narrow.url}/openapi.json").text
    known = {"HTTPValidationError", "ValidationError", "Validation Error", "Error Type", "Internal Server Error"}
    for name in known:
        text = text.replace(name, "")
    assert not LEAKS.search(text), LEAKS.search(text)
    assert "debug" not in text
    assert "queue_limit" not in text
    assert QUEUE_LIMIT not in re.findall(r"\d+", text)


def test_the_operators_routes_tell_no_path_and_no_exception(narrow: Server) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/status"):
        answer = httpx.get(f"{narrow.url}/offloop{path}")
        text = answer.text.replace(QUEUE_BYTES, "")
        assert not LEAKS.search(text), LEAKS.search(text)


# ---- with OFFLOOP_DEBUG


def test_with_debug_a_failure_and_a_problem_carry_their_traceback_and_no_other_answer_does(mode: Mode) -> None:
    with serving(APP, env=mode.env(1, debug=True)) as server:

        def said(path: str, message: dict[str, Any], **options: Any) -> dict[str, Any]:
            answer = httpx.post(server.url + path, json=message, **options)
            assert headers_of(answer) <= HEADERS
            assert not LEAKS.search(json.dumps(dict(answer.headers)))
            told: dict[str, Any] = answer.json()
            return told

        failed = said("/failing", {"how": "raise"})
        assert failed.keys() == MEMBERS | {"debug"}
        assert "ValueError: a secret that nobody outside may read" in failed["debug"]
        assert "nodes.py" in failed["debug"]
        assert failed["detail"] == errors.NodeFailed.explanation
        assert "TooManyPages" in said("/refused", {"how": "pages"})["debug"]
        assert said("/echo", {}, headers={"content-type": "text/plain"}).keys() == MEMBERS
        assert said("/failing", {"how": "silence"}).keys() == MEMBERS

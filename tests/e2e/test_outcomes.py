"""Every row of the table of HTTP outcomes, met by a real client at a real server in every mode."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from offloop import errors
from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_in_flight
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Answer, Wire

SEEN: set[str] = set()


@pytest.fixture(scope="module", autouse=True)
def _in_each_mode(mode: Mode) -> None:
    SEEN.clear()


def assert_problem(answer: httpx.Response | Answer, status: int, reason: str) -> dict[str, Any]:
    """Assert that it is this problem document, complete, and give it back."""
    SEEN.add(reason)
    said: dict[str, Any] = answer.json()
    got = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    assert (got, said["reason"]) == (status, reason), said
    assert said["type"] == f"urn:offloop:problem:{reason}"
    assert said["status"] == status
    assert said["title"]
    assert said["detail"]
    assert said["instance"]
    assert said["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert said["endpoint"]
    assert said["retry_safe"] is (said["started"] is False)  # no endpoint here is idempotent
    assert ("retry-after" in answer.headers) is (status in (429, 503))
    return said


@pytest.fixture(scope="module")
def small(mode: Mode, gate: Gate) -> Iterator[Server]:
    """A server with narrow limits: one loop, two places, a little memory."""
    with serving(APP, env=mode.env(1, queue_limit=2, queue_bytes=400_000)) as server:
        yield server


def test_loops_that_were_never_started(mode: Mode) -> None:
    # An app whose lifespan never runs: the loops were not started.
    with serving(APP, "--lifespan", "off", env=mode.env()) as server:
        with Wire(server.port) as wire:
            wire.post("/echo", {"n": 1})
            said = assert_problem(wire.answer(), 503, "backend-unavailable")
        assert said["started"] is False
        assert httpx.get(f"{server.url}/offloop/readyz").status_code == 503


def test_a_media_type_that_the_endpoint_does_not_take(client: httpx.Client) -> None:
    assert_problem(
        client.post("/blobs", content=b"x", headers={"content-type": "image/png"}), 415, "unsupported-media-type"
    )
    assert_problem(
        client.post("/echo", content=b"n=1", headers={"content-type": "text/plain"}), 415, "unsupported-media-type"
    )


def test_a_content_encoding(client: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert_problem(client.post("/echo", content=b"\x1f\x8b", headers=headers), 415, "unsupported-media-type")


def test_a_body_that_declares_too_much(client: httpx.Client) -> None:
    headers = {"content-type": "application/pdf"}
    assert_problem(client.post("/blobs", content=b"x" * (2**20 + 1), headers=headers), 413, "payload-too-large")


def test_a_body_that_becomes_too_much_as_it_arrives(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 2**16

    headers = {"content-type": "application/pdf"}
    assert_problem(client.post("/blobs", content=pieces(), headers=headers), 413, "payload-too-large")


def test_an_endpoint_with_all_its_waiters(server: Server, gate: Gate) -> None:
    with ThreadPoolExecutor(8) as callers:
        busy = [callers.submit(httpx.post, f"{server.url}/gated", json={"name": "all"}, timeout=30) for _ in range(8)]
        wait_in_flight(server, "gated", 8)
        said = assert_problem(httpx.post(f"{server.url}/gated", json={"name": "one more"}), 429, "endpoint-busy")
        assert said["started"] is False
        for _ in range(2):
            gate.wait("all", 4)
            gate.open("all")
        assert {caller.result().status_code for caller in busy} == {200}


def test_a_queue_that_is_full(small: Server, gate: Gate) -> None:
    with Wire(small.port) as running, Wire(small.port) as one, Wire(small.port) as two:
        running.post("/gated", {"name": "full"})
        gate.wait("full")
        one.post("/gated", {"name": "full"})
        two.post("/gated", {"name": "full"})
        wait_in_flight(small, "gated", 3)
        assert_problem(httpx.post(f"{small.url}/echo", json={"n": 1}), 503, "queue-full")
        for wire in (running, one, two):
            gate.wait("full")
            gate.open("full")
            assert wire.answer().status == 200


def test_the_memory_for_bodies_is_full(small: Server) -> None:
    headers = {"content-type": "application/pdf"}
    assert_problem(httpx.post(f"{small.url}/blobs", content=b"x" * 400_001, headers=headers), 503, "queue-full")
    assert httpx.post(f"{small.url}/blobs", content=b"x" * 400_000, headers=headers).status_code == 200


def test_an_upload_that_is_unfinished_at_the_deadline(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.head("POST /brief", content_type="application/json", content_length="100")
        wire.send(b'{"name":')
        said = assert_problem(wire.answer(), 408, "upload-timeout")
    assert said["started"] is False


def test_a_payload_that_does_not_validate_answers_as_fastapi_does(client: httpx.Client) -> None:
    answer = client.post("/echo", json={"n": "many"})
    SEEN.add("invalid-payload")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    (fault,) = answer.json()["detail"]
    assert fault["type"] == "int_parsing"
    assert fault["loc"] == ["body", "n"]
    assert fault["input"] == "many"


def test_the_deadline_passes_before_anything_begins(small: Server, gate: Gate) -> None:
    with Wire(small.port) as running:
        running.post("/gated", {"name": "holding"})
        gate.wait("holding")
        late = httpx.post(f"{small.url}/echo", json={"n": 1}, headers={"x-request-timeout": "0.2"})
        said = assert_problem(late, 503, "expired-in-queue")
        assert said["started"] is False
        gate.open("holding")
        assert running.answer().status == 200


def test_the_deadline_passes_while_a_node_runs(server: Server, gate: Gate) -> None:
    said = assert_problem(httpx.post(f"{server.url}/brief", json={"name": "slow"}), 504, "deadline-exceeded")
    assert said["started"] is True
    gate.wait("slow")
    gate.open("slow")


def test_a_problem_that_a_node_raised(client: httpx.Client) -> None:
    said = assert_problem(client.post("/refused", json={"how": "pages"}), 422, "too-many-pages")
    assert said["title"] == "The document has too many pages"
    assert said["detail"] == "900 pages are too many"
    assert (said["pages"], said["limit"]) == (900, [1, 500])
    assert said["retry_safe"] is False
    assert_problem(client.post("/refused", json={"how": "gone"}), 410, "gone")


@pytest.mark.parametrize("how", ["raise", "exit", "interrupt", "stop", "memory", "recursion", "base"])
def test_a_node_that_fails_in_any_way_ends_its_request_and_not_its_loop(client: httpx.Client, how: str) -> None:
    answers = [client.post("/failing", json={"how": how}) for _ in range(5)]  # more than there are loops
    for answer in answers:
        said = assert_problem(answer, 500, "node-failed")
        assert said["started"] is True
        assert "secret" not in answer.text
        assert "Error" not in answer.text
    assert client.post("/echo", json={"n": 4}).json()["n"] == 4


def test_work_that_ends_without_a_reply(client: httpx.Client) -> None:
    assert_problem(client.post("/failing", json={"how": "silence"}), 500, "no-reply")


def test_debug_adds_the_traceback(mode: Mode) -> None:
    with serving(APP, env=mode.env(1, debug=True)) as server:
        said = httpx.post(f"{server.url}/failing", json={"how": "raise"}).json()
    assert "a secret that nobody outside may read" in json.dumps(said)


def test_every_row_of_the_table_was_met() -> None:
    # Draining and drain-cut are met in the tests of the drain, lost workers in those of deaths (there are none in
    # thread mode); nobody is told that he has gone.
    elsewhere = {"draining", "drain-cut", "worker-lost", "cancelled"}
    assert set(errors.BY_REASON) - elsewhere <= SEEN

"""All the ways in which a message comes in over HTTP and a reply goes out."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire


def test_fields_come_from_the_path_and_the_query(client: httpx.Client) -> None:
    answer = client.get("/items/7", params={"tag": ["a", "b"], "limit": "3", "unknown": "x"})
    assert answer.json() == {"item": 7, "tags": ["a", "b"], "limit": 3}


def test_a_field_of_the_query_that_does_not_validate_is_named_as_fastapi_names_it(client: httpx.Client) -> None:
    (fault,) = client.get("/items/7", params={"limit": "many"}).json()["detail"]
    assert fault["loc"] == ["query", "limit"]
    (fault,) = client.get("/items/seven").json()["detail"]
    assert fault["loc"] == ["path", "item"]


def test_a_field_of_the_path_wins_over_the_body_and_none_answers_204(client: httpx.Client) -> None:
    answer = client.put("/items/9", json={"limit": 2})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers


def test_a_raw_body_is_a_blob(client: httpx.Client) -> None:
    answer = client.post("/blobs", content=b"%PDF", headers={"content-type": "application/pdf"})
    assert answer.json() == {"size": 4, "media_type": "application/pdf", "filename": None}


def test_a_blob_as_reply_is_sent_raw_with_its_type_and_name(client: httpx.Client) -> None:
    body = bytes(range(256)) * 4096
    answer = client.post("/anything", content=body, headers={"content-type": "image/png"})
    assert answer.content == body
    assert answer.headers["content-type"] == "image/png"
    assert "filename*=UTF-8''gr%C3%BC%C3%9Fe.bin" in answer.headers["content-disposition"]


def test_a_model_with_a_blob_takes_a_raw_body_and_the_query(client: httpx.Client) -> None:
    answer = client.post("/letters", params={"to": "Ada", "copies": 2}, content=b"Dear Ada")
    assert answer.json() == {"to": "Ada", "copies": 2, "size": 8, "filename": None}


def test_a_model_with_a_blob_takes_a_multipart_form(client: httpx.Client) -> None:
    answer = client.post("/letters", data={"to": "Ada"}, files={"body": ("dear.txt", b"Dear Ada", "text/plain")})
    assert answer.json() == {"to": "Ada", "copies": 1, "size": 8, "filename": "dear.txt"}


def test_a_multipart_form_from_curl(server: Server, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_bytes(b"Dear Ada")
    said = curl("-F", "to=Ada", "-F", f"body=@{tmp_path}/letter.txt", f"{server.url}/letters")
    assert json.loads(said) == {"to": "Ada", "copies": 1, "size": 8, "filename": "letter.txt"}


def test_a_slow_upload_in_many_pieces_is_one_message(server: Server) -> None:
    body = json.dumps({"n": 12, "text": "x" * 50}).encode()
    with Wire(server.port) as wire:
        wire.head("POST /echo", content_type="application/json", content_length=str(len(body)))
        for at in range(0, len(body), 7):
            wire.send(body[at : at + 7])
        assert wire.answer().json()["n"] == 12


def test_a_chunked_upload(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"n": '
        yield b"13}"

    answer = client.post("/echo", content=pieces(), headers={"content-type": "application/json"})
    assert answer.json()["n"] == 13


def test_two_requests_on_one_connection_at_once(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.post("/echo", {"n": 1})
        wire.post("/echo", {"n": 2})
        assert [wire.answer().json()["n"], wire.answer().json()["n"]] == [1, 2]


def test_a_request_id_is_returned_and_one_is_made_where_there_is_none(client: httpx.Client) -> None:
    assert client.post("/echo", json={"n": 1}, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    first, second = (client.post("/echo", json={"n": 1}) for _ in range(2))
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.json()["request_id"] == first.headers["x-request-id"]


def test_a_request_id_that_could_split_a_header_or_a_log_line_is_not_taken(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.head("POST /echo", content_type="application/json", content_length="8", x_request_id="bad\tid" + "x" * 300)
        wire.send(b'{"n": 1}')
        assert re.fullmatch("[0-9a-f]{32}", wire.answer().headers["x-request-id"])


def test_a_caller_may_shorten_the_deadline_and_not_lengthen_it(client: httpx.Client) -> None:
    answer = client.post("/brief", json={"name": "lengthened"}, headers={"x-request-timeout": "30"})
    assert answer.elapsed.total_seconds() < 5
    assert answer.json()["reason"] == "deadline-exceeded"


@pytest.mark.parametrize("value", ["soon", "nan", "-1", "0", "inf", ""])
def test_a_malformed_timeout_is_refused_with_its_name(client: httpx.Client, value: str) -> None:
    answer = client.post("/echo", json={"n": 1}, headers={"x-request-timeout": value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "x-request-timeout"]


def test_a_method_that_the_path_does_not_know(client: httpx.Client) -> None:
    answer = client.get("/echo")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_log_records_of_a_node_carry_its_request_and_its_process(mode: Mode) -> None:
    process = "MainProcess" if mode is Mode.THREAD else "worker-0"
    with serving("tests.e2e.programs.logged:app", env=mode.env(1)) as server:
        httpx.post(f"{server.url}/echo", json={"n": 31}, headers={"x-request-id": "label-31"})
        server.wait_line(rf"^INFO {process} documents: echoing 31 request_id=label-31 endpoint=echo$")
        httpx.post(f"{server.url}/failing", json={"how": "raise"}, headers={"x-request-id": "label-32"})
        server.wait_line(rf"^ERROR {process} offloop\.nodes: fail: .* request_id=label-32 endpoint=fail$")
        server.wait_line(r"^ValueError: a secret that nobody outside may read$")  # an operator may
        server.wait_line(r'^  File ".*nodes\.py", line \d+, in fail$')
    assert "Logging error" not in server.log


BIG = 50 * 2**20


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.pdf"
    path.write_bytes(b"x" * BIG)
    return path


def test_curl_receives_an_early_refusal_whole(server: Server, big: Path) -> None:
    said = curl("-H", "content-type: application/pdf", "--data-binary", f"@{big}", f"{server.url}/blobs")
    assert json.loads(said)["reason"] == "payload-too-large"


def test_curl_that_does_not_ask_first_receives_an_early_refusal_whole(server: Server, big: Path) -> None:
    said = curl(
        "-H", "content-type: application/pdf", "-H", "expect:", "--data-binary", f"@{big}", f"{server.url}/blobs"
    )
    assert json.loads(said)["reason"] == "payload-too-large"


def test_httpx_receives_an_early_refusal_whole_and_goes_on(client: httpx.Client, big: Path) -> None:
    for _ in range(2):
        answer = client.post("/blobs", content=big.read_bytes(), headers={"content-type": "application/pdf"})
        assert answer.json()["reason"] == "payload-too-large"
    assert client.post("/echo", json={"n": 1}).status_code == 200


def test_many_callers_at_once_each_get_their_own(client: httpx.Client) -> None:
    with ThreadPoolExecutor(16) as callers:
        answers = callers.map(lambda n: client.post("/echo", json={"n": n, "text": "x" * n}).json(), range(300))
        assert [(answer["n"], answer["size"]) for answer in answers] == [(n, n) for n in range(300)]


def curl(*args: str) -> str:
    done = subprocess.run(["curl", "-sS", *args], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

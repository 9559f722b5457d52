"""Starting, reloading, several workers, other ways of serving; and a start that fails."""

import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from offloop import Offloop, errors
from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_unready
from tests.support.gate import Gate
from tests.support.server import ROOT, Server, serving


def test_a_start_that_fails_says_why_in_one_line_and_leaves_no_process() -> None:
    server = Server("tests.e2e.programs.broken:app")
    assert server.wait() == 3  # uvicorn's own code for a start that failed
    told = [line for line in server.lines if line.startswith("offloop could not start")]
    assert told == [
        "offloop could not start: a service could not be built: FileNotFoundError: the model's file is missing"
    ]


async def test_a_start_that_fails_leaves_no_thread_and_may_be_tried_again() -> None:
    off = Offloop("tests.e2e.programs.broken")
    before = set(threading.enumerate())
    for _ in range(2):
        with pytest.raises(errors.StartError, match="the model's file is missing"):
            await off.__aenter__()
        assert {t for t in threading.enumerate() if t.name.startswith("offloop")} <= before
        assert off.gateway is None


def test_a_setting_that_cannot_be_stops_the_start_with_one_line_that_names_it() -> None:
    server = Server(APP, env={"OFFLOOP_QUEUE_LIMIT": "many"})
    assert server.wait() != 0
    assert "OFFLOOP_QUEUE_LIMIT" in server.lines[-1]


def test_a_mode_that_is_not_there_yet_is_refused_by_name() -> None:
    server = Server(APP, env={"OFFLOOP_MODE": "process"})
    assert server.wait() == 3
    assert any("OFFLOOP_MODE=process" in line for line in server.lines)


def test_two_server_processes_each_drain_their_own(gate: Gate) -> None:
    env = {"OFFLOOP_DRAIN_TIMEOUT": "15", "OFFLOOP_THREADS": "2"}
    with serving(APP, "--workers", "2", env=env) as server, ThreadPoolExecutor(4) as callers:
        server.wait_open()
        held = [callers.submit(httpx.post, f"{server.url}/gated", json={"name": "two"}, timeout=30) for _ in range(2)]
        gate.wait("two", 2)  # whichever process each has come to: a signal overtakes what is still on its way
        server.signal(signal.SIGTERM)
        gate.open("two")
        assert [caller.result().status_code for caller in held] == [200, 200]
        server.wait()
        assert "Traceback" not in server.log


def test_reload_drains_the_old_process_and_serves_the_new_code(tmp_path: Path, gate: Gate) -> None:
    package = tmp_path / "reloaded"
    package.mkdir()
    (package / "__init__.py").touch()
    source = package / "app.py"
    text = (ROOT / "tests/e2e/programs/reloaded.txt").read_text()
    source.write_text(text.replace("VERSION", "1"))
    env = {"OFFLOOP_DRAIN_TIMEOUT": "15"}
    args = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path))
    server = Server("reloaded.app:app", *args, env=env)
    try:
        server.port = int(server.wait_line(r"running on http://[^:]+:(\d+)").group(1))
        server.wait_line("Application startup complete")
        with ThreadPoolExecutor(1) as callers:
            held = callers.submit(httpx.post, f"{server.url}/version", json={"name": "reload"}, timeout=30)
            gate.wait("reload")
            server.lines.clear()
            source.write_text(text.replace("VERSION", "2"))
            server.wait_line("Reloading")
            gate.open("reload")
            assert held.result().json()["word"] == "go 1"
        server.wait_line("Application startup complete")
        with ThreadPoolExecutor(1) as callers:
            again = callers.submit(httpx.post, f"{server.url}/version", json={"name": "reloaded"}, timeout=30)
            gate.wait("reloaded")
            gate.open("reloaded")
            assert again.result().json()["word"] == "go 2"
        server.signal(signal.SIGINT)
        server.wait()
    finally:
        server.kill()
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_off_the_main_thread_nothing_is_taken_over_and_the_lifespan_drains() -> None:
    with Module("threaded") as server:
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "joined" in server.log


def test_without_a_server_the_loops_live_in_a_plain_program(gate: Gate) -> None:
    with Module("alone") as server:
        gate.wait("alone")
        gate.open("alone", "answered")
        assert server.wait() == 0
        assert "reply answered" in server.log


def test_an_ignored_signal_stays_ignored(gate: Gate) -> None:
    with Module("ignoring") as server:
        gate.wait("alone")
        server.signal(signal.SIGINT)
        gate.open("alone", "still here")
        assert server.wait() == 0
        assert "reply still here" in server.log


def test_a_wedged_loop_is_replaced_and_the_process_ends_though_its_node_never_returns(gate: Gate) -> None:
    env = {"OFFLOOP_THREADS": "1", "OFFLOOP_KILL_GRACE": "0.2", "OFFLOOP_DRAIN_TIMEOUT": "1"}
    with serving(APP, env=env) as server:
        assert httpx.post(f"{server.url}/brief", json={"name": "wedged"}).status_code == 504
        assert httpx.get(f"{server.url}/offloop/status").json()["workers"]["overdue"] == 1
        answer = httpx.post(f"{server.url}/echo", json={"n": 1}, timeout=10)  # waits for the fresh loop
        assert answer.json()["n"] == 1
        assert httpx.get(f"{server.url}/offloop/status").json()["workers"] == {
            "idle": 1, "busy": 0, "overdue": 0, "wedged": 1,
        }  # fmt: skip
        assert httpx.post(f"{server.url}/brief", json={"name": "wedged"}).status_code == 504
        wait_unready(server)  # the second is wedged too, and there may be only one more than OFFLOOP_THREADS
        refused = httpx.post(f"{server.url}/echo", json={"n": 1})
        assert (refused.status_code, refused.json()["reason"]) == (503, "backend-unavailable")
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        gate.open("wedged")
        answer = httpx.post(f"{server.url}/echo", json={"n": 2}, timeout=10)
        assert answer.status_code in (200, 503)
        server.signal(signal.SIGTERM)
        assert server.wait(5) == -signal.SIGTERM


def test_every_thread_of_the_library_is_named_and_gone_after_the_end() -> None:
    from tests.e2e.programs.app import app

    with TestClient(app) as client:
        assert client.post("/echo", json={"n": 1}).status_code == 200
        names = {t.name for t in threading.enumerate() if t.name.startswith("offloop")}
        assert any(re.fullmatch(r"offloop-loop-\d+", name) for name in names)
    assert not {t.name for t in threading.enumerate() if t.name.startswith("offloop")}


class Module(Server):
    """`python -m tests.e2e.programs.served WAY`."""

    def __init__(self, way: str) -> None:
        super().__init__(way, module="tests.e2e.programs.served")

"""Starting, reloading, several server processes, other ways of serving; and a start that fails. In every mode."""

import asyncio
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from offloop import Offloop, errors
from offloop.fastapi import OffloopRouter
from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_unready
from tests.support.broker import Broker
from tests.support.daemon import free_port
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import MARK, ROOT, Server, living, serving
from tests.support.threads import threads_of_ours


def test_a_start_that_fails_says_why_in_one_line_and_leaves_no_process(mode: Mode) -> None:
    server = Server("tests.e2e.programs.broken:app", env=mode.env(2))
    assert server.wait() == 3  # uvicorn's own code for a start that failed
    server.wait_gone()
    told = [line for line in server.lines if line.startswith("offloop could not start")]
    assert told == [
        "offloop could not start: a service could not be built: FileNotFoundError: the model's file is missing"
    ]
    for untrue in ("killed", "died", "ExceptionGroup"):  # workers that were to end with the others
        assert untrue not in server.log


async def test_a_start_that_is_given_up_leaves_no_process(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In thread mode nothing ends a service that is being built; it is closed once it is there.
    monkeypatch.setenv(MARK, "given up")
    off = Offloop("tests.e2e.programs.slow", settings=Mode.PROCESS.settings(2))
    starting = asyncio.create_task(off.__aenter__())
    await asyncio.to_thread(gate.wait, "service", 2)
    assert len(living(f"{MARK}=given up")) == 2
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not threads_of_ours()
    assert not living(f"{MARK}=given up")
    assert not caplog.records
    assert off.gateway is None


async def test_a_start_that_fails_leaves_no_thread_and_no_task_and_may_be_tried_again(mode: Mode) -> None:
    off = Offloop("tests.e2e.programs.broken", settings=mode.settings(2))
    before = asyncio.all_tasks()
    for _ in range(2):
        with pytest.raises(errors.StartError, match="the model's file is missing"):
            await off.__aenter__()
        assert not threads_of_ours()
        assert off.gateway is None
        async with asyncio.timeout(10):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110  (that they were cancelled is seen a turn later)
                await asyncio.sleep(0.005)


async def test_a_start_that_fails_over_a_broker_leaves_nothing_there(redis: Broker) -> None:
    settings = Mode.CLUSTER.settings(1)
    with pytest.raises(errors.StartError, match="the model's file is missing"):
        await Offloop("tests.e2e.programs.broken", settings=settings).__aenter__()
    await asyncio.to_thread(redis.until, lambda keys: not keys, "KEYS", f"{settings.namespace}:inbox:*")
    ours = f"name=offloop-{os.getpid()} ".encode()
    await asyncio.to_thread(
        redis.until, lambda clients: clients.count(ours) == 1, "CLIENT", "LIST"
    )  # the one that asks


def test_a_setting_that_cannot_be_stops_the_start_with_one_line_that_names_it() -> None:
    server = Server(APP, env={"OFFLOOP_QUEUE_LIMIT": "many"})
    assert server.wait() != 0
    assert "OFFLOOP_QUEUE_LIMIT" in server.lines[-1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("celery+redis://127.0.0.1:{port}/1", "the broker cannot be reached: 127.0.0.1:{port}/1"),
        ("redis://127.0.0.1:{port}", "the broker cannot be reached: 127.0.0.1:{port}/0"),
    ],
)
def test_a_broker_that_cannot_be_used_stops_the_start_by_name(url: str, said: str) -> None:
    port = str(free_port())
    env = {"OFFLOOP_MODE": "cluster", "OFFLOOP_BROKER_URL": url.replace("{port}", port)}
    server = Server(APP, env=env)  # type: ignore[arg-type]
    assert server.wait() == 3
    assert any(said.replace("{port}", port) in line for line in server.lines)


def test_two_server_processes_each_drain_their_own(mode: Mode, gate: Gate) -> None:
    env = mode.env(2, drain_timeout=15)
    with serving(APP, "--workers", "2", env=env) as server, ThreadPoolExecutor(4) as callers:
        server.wait_open()
        held = [callers.submit(httpx.post, f"{server.url}/gated", json={"name": "two"}, timeout=30) for _ in range(2)]
        gate.wait("two", 2)  # whichever process each has come to: a signal overtakes what is still on its way
        server.signal(signal.SIGTERM)
        gate.open("two")
        assert [caller.result().status_code for caller in held] == [200, 200]
        server.wait()
        server.wait_gone()
        assert "Traceback" not in server.log


def test_reload_drains_the_old_process_and_serves_the_new_code(mode: Mode, tmp_path: Path, gate: Gate) -> None:
    package = tmp_path / "reloaded"
    package.mkdir()
    (package / "__init__.py").touch()
    source = package / "app.py"
    text = (ROOT / "tests/e2e/programs/reloaded.txt").read_text()
    source.write_text(text.replace("VERSION", "1"))
    env = mode.env(1, drain_timeout=15)
    args = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path))
    server = Server("reloaded.app:app", *args, env=env)
    try:
        server.port = int(server.wait_line(r"running on http://[^:]+:(\d+)").group(1))
        server.wait_line("Application startup complete")
        with ThreadPoolExecutor(1) as callers:
            held = callers.submit(httpx.post, f"{server.url}/version", json={"name": "reload"}, timeout=30)
            gate.wait("reload")
            old = server.workers()
            assert len(old) == (0 if mode is Mode.THREAD else 1)
            server.lines.clear()
            source.write_text(text.replace("VERSION", "2"))
            server.wait_line("Reloading")
            gate.open("reload")
            assert held.result().json()["word"] == "go 1"
        server.wait_line("Application startup complete")
        server.wait_gone(old)
        with ThreadPoolExecutor(1) as callers:
            again = callers.submit(httpx.post, f"{server.url}/version", json={"name": "reloaded"}, timeout=30)
            gate.wait("reloaded")
            gate.open("reloaded")
            assert again.result().json()["word"] == "go 2"
        server.signal(signal.SIGINT)
        server.wait()
        server.wait_gone()
    finally:
        server.kill()
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_off_the_main_thread_nothing_is_taken_over_and_the_lifespan_drains(mode: Mode) -> None:
    with Module("threaded", mode) as server:
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "joined" in server.log
        server.wait_gone()


def test_without_a_server_the_loops_live_in_a_plain_program(mode: Mode, gate: Gate) -> None:
    with Module("alone", mode) as server:
        gate.wait("alone")
        gate.open("alone", "answered")
        assert server.wait() == 0
        assert "reply answered" in server.log
        server.wait_gone()


def test_an_ignored_signal_stays_ignored(mode: Mode, gate: Gate) -> None:
    with Module("ignoring", mode) as server:
        gate.wait("alone")
        server.signal(signal.SIGINT)
        gate.open("alone", "still here")
        assert server.wait() == 0
        assert "reply still here" in server.log


def test_a_wedged_loop_is_replaced_and_the_process_ends_though_its_node_never_returns(gate: Gate) -> None:
    # In process mode a wedged loop is killed with its process: that has tests of its own.
    with serving(APP, env=Mode.THREAD.env(1, kill_grace=0.2, drain_timeout=1)) as server:
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


def test_every_thread_of_the_library_is_named_and_gone_after_the_end(mode: Mode) -> None:
    before = set(threading.enumerate())
    app = FastAPI()
    app.include_router(OffloopRouter(Offloop("tests.e2e.programs.nodes", settings=mode.settings(2))))
    with TestClient(app) as client:
        assert client.post("/echo", json={"n": 1}).status_code == 200
        loops, passing_on = {"offloop-loop-1", "offloop-loop-2"}, {"offloop-output", "offloop-records", "offloop-news"}
        assert threads_of_ours() == (loops if mode is Mode.THREAD else passing_on)
        assert not any(t.name.startswith("Thread-") for t in set(threading.enumerate()) - before)
    assert not threads_of_ours()


class Module(Server):
    """`python -m tests.e2e.programs.served WAY`."""

    def __init__(self, way: str, mode: Mode) -> None:
        super().__init__(way, module="tests.e2e.programs.served", env=mode.env(1))

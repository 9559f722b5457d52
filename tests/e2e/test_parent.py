"""The web process ends, in whatever way: nothing that it has started outlives it."""

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_deaths import alive, callers, fatal, post, pytestmark, session, wait_until, workers_of
from tests.e2e.test_drain import exit_code_of_uvicorn
from tests.e2e.test_hangs import child_of
from tests.e2e.test_promises import verdicts
from tests.support.gate import Gate
from tests.support.server import Server
from tests.support.wire import Wire

__all__ = ["callers", "pytestmark"]  # fixtures and marks that hold here as well

GONE_WITHIN = 2.0
"""Seconds after the web process' end within which nothing of it is left."""


def end(server: Server, how: str) -> int:
    """End the web process; returns its exit code."""
    if how in ("_exit", "exit"):
        with Wire(server.port) as wire:
            wire.post(f"/end/{how}", {})
            return server.process.wait(20)
    server.signal(signal.Signals[how])
    return server.process.wait(20)


@pytest.mark.parametrize(
    ("how", "code"), [("SIGKILL", -signal.SIGKILL), ("_exit", 5), ("SIGTERM", -signal.SIGTERM), ("exit", 6)]
)
def test_nothing_is_left_whatever_ends_the_web_process(gate: Gate, how: str, code: int) -> None:
    """Not while a node keeps the interpreter to itself either; nor what another's node had started."""
    with ThreadPoolExecutor(3) as held, fatal(3, OFFLOOP_DRAIN_TIMEOUT="0.5") as server:
        waiting = [
            held.submit(attempt, server, "/spin", name=f"deaf {how}", how="deaf"),
            held.submit(attempt, server, "/family", name=f"family {how}"),
        ]
        gate.wait_note(f"deaf {how} began")
        gate.wait(f"family {how}")
        child = child_of(gate, f"family {how}")
        assert len(workers_of(server)) == 3
        assert alive(child)
        assert end(server, how) == code
        took = wait_until(lambda: not workers_of(server), "no worker is left", GONE_WITHIN)
        wait_until(lambda: not alive(child), "what a node had started has gone, too", GONE_WITHIN - took)
        assert not session(server.process.pid)
        for request in waiting:
            request.result()


def test_nothing_is_left_of_a_worker_that_hears_of_nothing_any_more(gate: Gate) -> None:
    """Its node has taken for itself the signals that may tell of the end, and keeps the interpreter to itself."""
    with ThreadPoolExecutor(1) as held, fatal(1) as server:
        waiting = held.submit(attempt, server, "/spin", name="stone deaf", how="stone deaf")
        wait_until(lambda: any(note.startswith("stone deaf child") for note in gate.notes), "it has begun")
        child = child_of(gate, "stone deaf")
        server.signal(signal.SIGKILL)
        server.process.wait(20)
        took = wait_until(lambda: not workers_of(server), "no worker is left", GONE_WITHIN)
        wait_until(lambda: not alive(child), "what its node had started has gone, too", GONE_WITHIN - took)
        waiting.result()


def attempt(server: Server, path: str, **order: object) -> int | None:
    """The status; None if there is no answer."""
    try:
        return post(server, path, **order).status
    except OSError:
        return None


def test_a_reload_leaves_no_worker_of_the_old_process(tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "touched.py").touch()
    env = {"OFFLOOP_DRAIN_TIMEOUT": "0.5"}
    with ThreadPoolExecutor(1) as held, fatal(2, "--reload", "--reload-dir", str(tmp_path), **env) as server:
        server.wait_open()
        spinning = held.submit(attempt, server, "/spin", name="reloaded", how="deaf")
        gate.wait_note("reloaded began")
        before = set(workers_of(server).values())
        assert len(before) == 2
        server.lines.clear()
        (tmp_path / "touched.py").write_text("# changed")
        server.wait_line("Reloading")
        server.wait_line("Finished server process")
        wait_until(lambda: not any(map(alive, before)), "the old ones have gone", GONE_WITHIN)
        spinning.result()
        server.wait_line("Application startup complete")
        assert post(server, "/echo").status == 200
        server.signal(signal.SIGTERM)
        server.wait()
        wait_until(lambda: not session(server.process.pid), "nothing is left", GONE_WITHIN)


class Crowd:
    """Callers that go on until the server goes."""

    def __init__(self, server: Server) -> None:
        self.said: Counter[str] = Counter()
        self._server = server
        self._changed = threading.Condition()

    def call(self) -> None:
        try:
            with Wire(self._server.port) as wire:
                while True:
                    wire.post("/echo", {"number": 1})
                    answer = wire.answer()
                    said = "ok" if answer.status == 200 else answer.json()["reason"]
                    with self._changed:
                        self.said[said] += 1
                        self._changed.notify_all()
                    if answer.headers.get("connection") == "close":
                        return
        except OSError:
            return  # the server has gone, or was about to when it was asked

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.said["ok"] >= count, 20), self.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_is_one_drain(
    gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "events.jsonl"
    with fatal(2, OFFLOOP_EVENT_LOG=str(log), OFFLOOP_DRAIN_TIMEOUT="15") as server:
        crowd = Crowd(server)
        calling = [callers.submit(crowd.call) for _ in range(4)]
        held = callers.submit(post, server, "/gated", name=f"to all {number}")
        gate.wait(f"to all {number}")
        crowd.wait(200)
        for pid in session(server.process.pid):  # a terminal, or systemd, sends it to all
            os.kill(pid, number)
        for caller in calling:
            caller.result()
        assert httpx.get(f"{server.url}/ping").status_code == 200
        gate.open(f"to all {number}")
        assert held.result().status == 200
        assert server.wait() == exit_code_of_uvicorn(number)
        assert crowd.said.keys() <= {"ok", "draining"}
        wait_until(lambda: not session(server.process.pid), "nothing is left", GONE_WITHIN)
        assert "died" not in server.log
        assert "Traceback" not in server.log
    said = verdicts(log)
    assert {said[promise] for promise in (1, 2, 3, 4, 5, 6, 8)} == {"held"}

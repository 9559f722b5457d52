"""`offloop worker`: a program that is in two halves, joined by a broker; signals, probes, and starts in any order."""

import json
import os
import pty
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.test_deaths import callers, lost, post, status, wait_until
from tests.support.broker import broker
from tests.support.command import Env, Worker, offloop, working
from tests.support.gate import Gate
from tests.support.server import DEADLINE, Server, serving
from tests.support.wire import Answer

__all__ = ["callers"]  # a fixture that holds here as well

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

WEB = "tests.e2e.programs.far_app:app"
PROGRAM = "tests.e2e.programs.far"


def cluster(url: str) -> Env:
    """One that nobody else is in."""
    return {"OFFLOOP_BROKER_URL": url, "OFFLOOP_NAMESPACE": uuid4().hex, "OFFLOOP_WORKERS": "1"}


@pytest.fixture(scope="module")
def env() -> Iterator[Env]:
    with broker() as one:
        yield cluster(one.url)


@contextmanager
def web(env: Env) -> Iterator[Server]:
    """A web process, which cannot import the nodes."""
    with serving(WEB, env={**env, "OFFLOOP_MODE": "cluster", "TEST_FAR_WEB": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def shared(env: Env) -> Iterator[Server]:
    with web(env) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """It knows of nobody: who was killed in another test is announced for a while, and would pass for who comes now."""
    staffed(shared, 0)
    return shared


def staffed(server: Server, loops: int, *workers: Worker) -> None:
    """Until these are ready, the web process knows of so many loops and no more, and all of them are free."""
    for worker in workers:
        worker.wait_probe("/readyz", 200, timeout=40.0)
    wanted = {"idle": loops, "busy": 0, "overdue": 0, "wedged": 0}
    wait_until(lambda: status(server)["workers"] == wanted, f"{loops} free loops", timeout=40.0)


def asks(callers: ThreadPoolExecutor, server: Server, gate: Gate, name: str) -> Future[Answer]:
    """Somebody whose request stands at the gate by now."""
    asking = callers.submit(post, server, "/hold", name=name)
    wait_until(lambda: asking.done() or gate.holds(name) > 0, f"{name} stands at the gate")
    assert not asking.done(), asking.result()
    return asking


def done(answer: Answer) -> Any:
    """What the node replied."""
    assert answer.status == 200, answer
    return answer.json()


def test_workers_run_what_a_web_process_asks_that_has_no_nodes_and_a_drain_ends_what_runs(
    server: Server, env: Env, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with working(PROGRAM, "--concurrency", "2", "--threads", "2", env=env) as worker:
        staffed(server, 4, worker)
        asking = asks(callers, server, gate, "held")
        refused = asks(callers, server, gate, "refused")
        gate.open("refused", "refuse")
        answer = refused.result()
        assert (answer.status, answer.json()["reason"]) == (409, "refused")
        text = worker.wait_probe("/metrics", 200, r'offloop_workers\{state="busy"\} 1\.0')
        assert 'offloop_workers{state="idle"} 1.0' in text
        assert "offloop_broker_up 1.0" in text
        worker.wait_probe("/metrics", 200, r"^offloop_leases 1\.0")
        assert "gpu built" not in gate.notes  # it is for endpoints of another pool

        worker.signal(signal.SIGTERM)
        worker.wait_line(r"INFO offloop .*draining: 1 workers run requests")
        assert worker.probe("/readyz") == (503, "draining\n")
        assert worker.probe("/livez") == (200, "alive\n")
        waiting = callers.submit(post, server, "/hold")  # nobody takes it: it is for workers to come
        gate.open("held", "at last")
        assert done(asking.result())["word"] == "at last"
        assert worker.wait() == 0, worker.log
        assert gate.notes.count("tool closed") == 2
        assert not re.search("Traceback|ERROR", worker.log), worker.log
        worker.wait_gone()
        with working(PROGRAM, env=env):
            assert waiting.result().status == 200


def test_one_process_that_is_killed_is_replaced_and_counted_and_what_it_began_is_in_its_log(
    server: Server, env: Env, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with working(PROGRAM, env={**env, "OFFLOOP_EVENT_LOG": str(tmp_path / "{pid}.log")}) as worker:
        staffed(server, 1, worker)
        asking = asks(callers, server, gate, "victim")
        (victim,) = worker.workers()
        began = monotonic()
        os.kill(victim, signal.SIGKILL)
        lost(asking.result())
        assert monotonic() - began < 2.0
        written = [json.loads(line) for line in (tmp_path / f"{victim}.log").read_text().splitlines()]
        assert [(line["endpoint"], line["kind"]) for line in written if line["rid"]][-1] == ("hold", "start")
        worker.wait_probe("/readyz", 503, "no worker is ready")
        worker.wait_probe("/metrics", 200, r'offloop_worker_restarts_total\{reason="died"\} 1\.0')
        staffed(server, 1, worker)
        assert post(server, "/hold").status == 200


def test_a_drain_over_its_budget_kills_and_says_so_by_its_exit_code(
    server: Server, env: Env, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with working(PROGRAM, env={**env, "OFFLOOP_DRAIN_TIMEOUT": "0.5"}) as worker:
        staffed(server, 1, worker)
        asking = asks(callers, server, gate, "endless")
        worker.signal(signal.SIGINT)
        assert worker.wait() == 1
        worker.wait_line("drained in .* s: 1 workers killed")
        lost(asking.result())
        worker.wait_gone()


def test_a_second_signal_ends_it_at_once_and_a_repeated_one_does_not(
    server: Server, env: Env, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with working(PROGRAM, env={**env, "OFFLOOP_DRAIN_TIMEOUT": "60"}) as worker:
        staffed(server, 1, worker)
        asking = asks(callers, server, gate, "endless")
        began, pause = monotonic(), threading.Event()
        while worker.process.poll() is None and monotonic() < began + DEADLINE:
            with suppress(ProcessLookupError):
                worker.signal(signal.SIGTERM)
            pause.wait(0.1)
        assert worker.wait() == 1
        assert 2.0 <= monotonic() - began < 8.0
        worker.wait_line("WARNING offloop .*a second signal: workers are not waited for any more")
        lost(asking.result())
        worker.wait_gone()


def test_a_signal_while_workers_start_ends_them(env: Env, gate: Gate) -> None:
    with working(PROGRAM, env={**env, "TEST_FAR_START": "hold"}) as worker:
        gate.wait("start")
        assert worker.probe("/readyz") == (503, "no worker is ready\n")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log
        worker.wait_gone()


CANNOT_START = [
    ({"TEST_FAR_START": "fail"}, "a service could not be built: RuntimeError: there is no tool"),
    (
        {"OFFLOOP_EVENT_LOG": "/nowhere/a.log"},
        "its event log cannot be kept: SettingsError: OFFLOOP_EVENT_LOG=/nowhere",
    ),
]


@pytest.mark.parametrize(("more", "said"), CANNOT_START)
def test_a_worker_that_says_why_it_cannot_start_ends_the_command(env: Env, gate: Gate, more: Env, said: str) -> None:
    with working(PROGRAM, env={**env, **more}) as worker:
        assert worker.wait() == 1
        assert worker.lines[-1].startswith(said)
        worker.wait_gone()


def test_nothing_outlives_the_command_when_it_is_killed(env: Env) -> None:
    with working(PROGRAM, "--concurrency", "2", env=env) as worker:
        worker.wait_probe("/readyz", 200)
        assert len(worker.workers()) == 2
        worker.kill()
        worker.wait_gone(timeout=4.0)


def test_a_broker_that_comes_later_is_waited_for_and_one_that_goes_is_noticed(
    gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with broker() as late:
        env = cluster(late.url)
        late.stop()
        with working(PROGRAM, env=env) as worker:
            worker.wait_line("WARNING offloop .*the broker cannot be reached, and is tried again until it can")
            gate.wait_note("tool built")  # workers start all the same
            worker.wait_probe("/readyz", 503, "no broker")
            late.start()
            worker.wait_probe("/readyz", 200)
            assert worker.log.count("cannot be reached") == 1
            with web(env) as server:
                staffed(server, 1, worker)
                assert post(server, "/hold").status == 200
                late.stop()
                worker.wait_probe("/readyz", 503, "no broker")
                worker.signal(signal.SIGTERM)
                assert worker.wait() == 0, worker.log


def test_a_pool_has_workers_of_its_own_that_build_only_what_they_need(server: Server, env: Env, gate: Gate) -> None:
    with working(PROGRAM, "--pool", "gpu", env=env) as worker:
        worker.wait_line("starting: takes trained, of pool gpu")
        staffed(server, 1, worker)
        answer = post(server, "/trained")
        assert done(answer)["word"] == "trained"
        assert "gpu built" in gate.notes
        assert "tool built" not in gate.notes
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_terminal_is_shown_how_it_goes_and_nothing_shows_credentials(gate: Gate, callers: ThreadPoolExecutor) -> None:
    with broker("--requirepass", "geheim") as guarded:
        env = {**cluster(f"redis://:geheim@127.0.0.1:{guarded.port}/0"), "TERM": "xterm", "COLUMNS": "200"}
        ours, its = pty.openpty()
        with os.fdopen(ours, "rb", 0) as screen, Worker(PROGRAM, env=env, terminal=its) as worker:
            os.close(its)
            shown = Shown(screen)
            shown.wait(f"127.0.0.1:{guarded.port}/0")
            shown.wait("serving  1 of 1 workers ready, 0 busy")
            with web(env) as server:
                staffed(server, 1)
                asking = asks(callers, server, gate, "held")
                shown.wait("1 of 1 workers ready, 1 busy")
                worker.signal(signal.SIGINT)
                shown.wait("draining  1 of 1 workers ready, 1 busy")
                gate.open("held")
                assert asking.result().status == 200
            assert worker.wait() == 0
            shown.wait("drained in")
            assert "geheim" not in shown.text + server.log


class Shown:
    """What a terminal has been shown, without its colours."""

    def __init__(self, screen: Any) -> None:
        self.text = ""
        self._screen = screen
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # its last writer has gone
            while data := self._screen.read(4096):
                with self._changed:
                    self.text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text + data.decode(errors="replace"))
                    self._changed.notify_all()

    def wait(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.text, DEADLINE), f"{text!r} is not in:\n{self.text}"


def test_a_port_that_is_taken_ends_it_with_one_line(env: Env) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = offloop("worker", PROGRAM, "--health-port", str(port), env=env)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"probes cannot be answered on 127.0.0.1:{port}: ")
    assert "Traceback" not in ended.stderr


def test_two_hosts_share_the_work_and_one_that_leaves_gives_way_to_the_other(
    server: Server, env: Env, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with working(PROGRAM, env=env) as first, working(PROGRAM, env=env) as second:
        staffed(server, 2, first, second)
        asking = [callers.submit(post, server, "/hold", name="both") for _ in range(2)]
        gate.wait("both", 2)
        first.signal(signal.SIGTERM)
        first.wait_line("draining")
        later = callers.submit(post, server, "/hold")
        gate.open("both")
        pids = {done(each.result())["pid"] for each in asking}
        assert len(pids) == 2
        assert later.result().status == 200
        assert first.wait() == 0
        assert {done(post(server, "/hold"))["pid"]} == second.workers()
        staffed(server, 1, second)

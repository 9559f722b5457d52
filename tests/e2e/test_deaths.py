"""A worker process dies: what it was running has its answer at once, the rest runs elsewhere, and another comes."""

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import httpx
import pytest

from offloop.core.respawn import FIRST
from tests.e2e.programs.fatal import FLAG, RECORD
from tests.e2e.test_promises import verdicts
from tests.support.gate import Gate
from tests.support.server import Server
from tests.support.stalls import Stalls
from tests.support.wire import Answer, Wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

FATAL = "tests.e2e.programs.fatal_app:app"
DEADLINE = 20.0


@contextmanager
def fatal(workers: int, *args: str, **env: str) -> Iterator[Server]:
    """A server in a session of its own, so that all that it has started can be found. Nothing of it is left behind."""
    settings: dict[str, str | None] = {"OFFLOOP_MODE": "process", "OFFLOOP_WORKERS": str(workers), **env}
    server = Server(FATAL, *args, env=settings, group=True)
    try:
        with server:
            yield server
    finally:
        for pid in session(server.process.pid):
            os.kill(pid, signal.SIGKILL)


def processes() -> Iterator[tuple[int, str, list[str]]]:
    """Every process that has not ended: its pid, its name, and what follows in /proc/PID/stat (man 5 proc)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue  # it has gone meanwhile
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if rest[0] not in "ZX":
                yield int(entry.name), name, rest


def session(leader: int) -> dict[int, str]:
    """The processes of a session, by pid, with their names."""
    return {pid: name for pid, name, rest in processes() if int(rest[3]) == leader}


def workers_of(server: Server) -> dict[int, int]:
    """pids of its worker processes that are alive, by index; that they are ready is not said."""
    found = session(server.process.pid).items()
    return {int(name.removeprefix("offloop-")): pid for pid, name in found if name.startswith("offloop-")}


def alive(pid: int) -> bool:
    return any(pid == other for other, _, _ in processes())


def wait_until(true: Callable[[], bool], what: str, timeout: float = DEADLINE) -> float:
    """Until it is; returns the seconds that it took."""
    since, pause = monotonic(), threading.Event()
    while not true():
        assert monotonic() - since < timeout, f"not so after {timeout} s: {what}"
        pause.wait(0.01)  # nobody tells of a process's end but the kernel, when it is asked
    return monotonic() - since


def status(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/offloop/status", timeout=DEADLINE).json()
    return found


def wait_idle(server: Server, count: int) -> None:
    """Until so many workers are there, and none of them runs anything."""
    wanted = {"idle": count, "busy": 0, "overdue": 0, "wedged": 0}
    wait_until(lambda: status(server)["workers"] == wanted, f"{count} idle workers\n{server.log}")


def restarts(server: Server, reason: str) -> int:
    text = httpx.get(f"{server.url}/offloop/metrics", timeout=DEADLINE).text
    found = re.search(rf'offloop_worker_restarts_total{{reason="{reason}"}} (\d+)', text)
    return int(found.group(1)) if found else 0


def post(server: Server, path: str, **order: Any) -> Answer:
    with Wire(server.port, timeout=60) as wire:
        wire.post(path, order)
        return wire.answer()


def lost(answer: Answer) -> None:
    """It is the answer to a request whose worker died."""
    said = answer.json()
    assert (answer.status, said["reason"], said["started"]) == (502, "worker-lost", True), answer


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Server]:
    with fatal(2) as server:
        yield server


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as callers:
        yield callers


WAYS = [
    ("kill", r"killed by SIGKILL \(out of memory, perhaps\)", "these are my last words"),
    ("segfault", "killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
    ("abort", "killed by SIGABRT", "Fatal Python error: Aborted"),
    ("exit", "exit code 7", "these are my last words"),
]


@pytest.mark.parametrize(("how", "why", "last"), WAYS)
def test_what_a_dead_worker_was_running_is_answered_and_the_log_says_why(
    server: Server, how: str, why: str, last: str
) -> None:
    wait_idle(server, 2)
    began, before = len(server.lines), restarts(server, "died")
    lost(post(server, "/die", how=how))
    server.wait_line(rf"^worker \d \(pid \d+\) died: {why}; it was running die \([\w-]+\)$")
    obituary = re.compile(rf"it was running die .*\n  Its last lines on stderr:(\n    .*)*?\n    .*{last}")
    wait_until(lambda: bool(obituary.search("\n".join(server.lines[began:]))), "its last lines are in the log")
    wait_idle(server, 2)
    assert restarts(server, "died") == before + 1


def test_a_death_is_answered_within_a_tenth_of_a_second(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """From the kill: `offloop verify` can only measure from when it was noticed."""
    took = []
    with Stalls() as stalls:
        for number in range(5):
            wait_idle(server, 2)
            pid = post(server, "/echo").json()["pid"]
            held = [callers.submit(post, server, "/gated", name=f"doomed {number}") for _ in range(2)]
            gate.wait(f"doomed {number}", 2)
            before, began = stalls.seconds, monotonic()
            os.kill(pid, signal.SIGKILL)
            first = first_of(held)
            took.append(monotonic() - began - (stalls.seconds - before))
            lost(first)
            gate.open(f"doomed {number}")
            assert sorted(caller.result().status for caller in held) == [200, 502]
    assert sorted(took)[3] < 0.1, took  # the machine may have been busy with something else once
    assert max(took) < 1, took


def first_of(callers: list[Future[Answer]]) -> Answer:
    """The first answer that comes."""
    return next(as_completed(callers, DEADLINE)).result()


def test_what_had_not_begun_runs_elsewhere(server: Server, gate: Gate, callers: ThreadPoolExecutor) -> None:
    wait_idle(server, 2)
    for _ in range(30):
        post(server, "/echo")  # so short that a busy worker is handed more of it
    held = [callers.submit(post, server, "/echo", name="first") for _ in range(2)]
    gate.wait("first", 2)
    waiting = [callers.submit(post, server, "/echo", number=number) for number in range(10)]
    wait_until(lambda: status(server)["queue_depth"] == 10, "ten wait")
    victim = workers_of(server)[0]
    os.kill(victim, signal.SIGKILL)
    lost(first_of(held))
    gate.open("first")
    assert sorted(caller.result().status for caller in held) == [200, 502]
    answers = [caller.result() for caller in waiting]
    assert [(answer.status, answer.json()["number"]) for answer in answers] == [(200, n) for n in range(10)]
    assert victim not in {answer.json()["pid"] for answer in answers}


def test_an_idempotent_request_runs_again_elsewhere(server: Server, gate: Gate, callers: ThreadPoolExecutor) -> None:
    wait_idle(server, 2)
    held = callers.submit(post, server, "/again", name="twice")
    gate.wait("twice")
    wait_until(lambda: status(server)["workers"]["busy"] == 1, "one is busy")
    for pid in workers_of(server).values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gate.notes.count("twice began") == 2, "it has begun again")
    gate.wait("twice", 2)  # one of them is the dead one's
    gate.open("twice")
    assert held.result().status == 200


def test_a_request_that_kills_three_workers_is_not_run_again(server: Server, gate: Gate) -> None:
    wait_idle(server, 2)
    answer = post(server, "/poison", name="poison")
    lost(answer)
    assert answer.json()["retry_safe"] is True
    wait_until(lambda: gate.notes.count("poison") >= 3, "it has begun three times")
    wait_idle(server, 2)
    assert gate.notes.count("poison") == 3


def test_while_the_only_worker_is_away_requests_wait_for_the_next(gate: Gate) -> None:
    with fatal(1) as server:
        for number in range(2):
            lost(post(server, "/die", how="exit"))
            assert sum(status(server)["workers"].values()) == 0
            answer = post(server, "/echo", number=number)
            assert (answer.status, answer.json()["number"]) == (200, number)


def test_starts_that_fail_are_tried_ever_more_rarely_and_the_web_process_lives(gate: Gate, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with fatal(1, **{FLAG: str(flag)}) as server:
        flag.touch()
        lost(post(server, "/die", how="kill"))
        server.wait_line(r"^worker 0 \(pid \d+\) died before it was ready, importing .*: exit code 9")
        wait_until(lambda: len(delays(server)) >= 3, "three starts have failed")
        assert "the flag is up" in server.log
        for failures, delay in enumerate(delays(server)):
            longest = FIRST * 2**failures
            assert longest / 2 - 0.05 <= delay <= longest + 0.05
        assert httpx.get(f"{server.url}/offloop/readyz").status_code == 503
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        assert httpx.get(f"{server.url}/ping").status_code == 200
        refused = post(server, "/echo")
        assert (refused.status, refused.json()["reason"]) == (503, "backend-unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert restarts(server, "start-failed") >= 2
        flag.unlink()
        wait_until(lambda: httpx.get(f"{server.url}/offloop/readyz").status_code == 200, "it is ready again")
        assert post(server, "/echo").status == 200


def delays(server: Server) -> list[float]:
    found = (re.match(r"worker 0 is started again in ([\d.]+) s", line) for line in list(server.lines))
    return [float(match.group(1)) for match in found if match]


def test_a_start_that_says_why_it_fails_fails_the_servers_start_with_that_line() -> None:
    server = Server("tests.e2e.programs.broken:app", env={"OFFLOOP_MODE": "process"}, group=True)
    assert server.wait() == 3
    assert [line for line in server.lines if line.startswith("offloop could not start")] == [
        "offloop could not start: a service could not be built: FileNotFoundError: the model's file is missing"
    ]
    assert not session(server.process.pid)


# ---- at most once


class Chaos:
    """Callers that record, and a killer of workers; seeded, as far as the machine lets it.

    Each request takes one of `seconds`.
    """

    def __init__(self, server: Server, seed: int, requests: int, seconds: Sequence[float], callers: int) -> None:
        self.outcomes: dict[int, str] = {}
        self.kills = 0
        self.faults: list[str] = []
        self._server = server
        self._seed = seed
        self._seconds = seconds
        self._random = Random(seed)
        self._numbers = iter(range(requests))
        self._lock = threading.Lock()
        self._next_kill = 20
        self._seen: dict[int, None] = {}
        self._killed: set[int] = set()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(callers)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _call(self, caller: int) -> None:
        random = Random(f"{self._seed} {caller}")
        try:
            with Wire(self._server.port, timeout=60) as wire:
                while (number := self._number()) is not None:
                    wire.post("/record", {"number": number, "seconds": random.choice(self._seconds)})
                    self._answered(number, wire.answer())
        except Exception as fault:  # noqa: BLE001  (a thread's fault is told by the test)
            self.faults.append(repr(fault))

    def _number(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _answered(self, number: int, answer: Answer) -> None:
        said = answer.json()
        with self._lock:
            self.outcomes[number] = "ok" if answer.status == 200 else said["reason"]
            if answer.status != 200 or said["number"] != number:
                assert said.get("reason") == "worker-lost", answer
            else:
                self._seen.pop(said["pid"], None)
                self._seen[said["pid"]] = None  # the last is the latest
                if len(self.outcomes) >= self._next_kill:
                    self._next_kill = len(self.outcomes) + self._random.randint(30, 80)
                    self._kill()

    def _kill(self) -> None:
        """Rather not the one that has just answered: another is in the middle of something, most likely."""
        there = [pid for pid in self._seen if pid not in self._killed]
        if there:
            self.kills += 1
            self._killed.add(there[-2:][0])
            os.kill(there[-2:][0], signal.SIGKILL)


WORK = (0.002, 0.004, 0.006)
"""Seconds of requests behind which nothing lies: each is run as soon as it has reached its worker."""
NOTHING = (0.0,)
"""Of such that a busy worker is handed more of."""


def at_most_once(folder: Path, seed: int, requests: int, seconds: Sequence[float], threads: int = 1) -> None:
    record, events = folder / f"ids {seed}", folder / f"events {seed}.jsonl"
    env = {RECORD: str(record), "OFFLOOP_EVENT_LOG": str(events), "OFFLOOP_THREADS": str(threads)}
    with fatal(2, **env) as server:
        chaos = Chaos(server, seed, requests, seconds, callers=8 if seconds == WORK else 24)
        chaos.run()
        assert not chaos.faults, chaos.faults
        rescued = httpx.get(f"{server.url}/rescued").json()
        server.signal(signal.SIGTERM)
        server.wait()
    begun = Counter(int(line) for line in record.read_text().split())
    struck = [number for number, outcome in chaos.outcomes.items() if outcome == "worker-lost"]
    assert sorted(chaos.outcomes) == list(range(requests))
    assert [number for number, count in begun.items() if count > 1] == []
    assert [number for number in chaos.outcomes if not begun[number] and number not in struck] == []
    assert chaos.kills >= requests / 100
    assert rescued if seconds == NOTHING else struck
    assert len(struck) <= chaos.kills * threads
    # Every caller waits for its answer, and what a dead worker had sent is read before its end counts: none is late.
    assert verdicts(events) == dict.fromkeys(range(1, 9), "held") | {9: "not checkable"}
    died = [line for line in map(json.loads, events.read_text().splitlines()) if line["kind"] == "worker_lost"]
    assert sum(line["outcome"] == "died" for line in died) >= 1


@pytest.mark.parametrize("seconds", [WORK, NOTHING], ids=["work", "nothing"])
def test_no_request_runs_twice_however_workers_die(gate: Gate, tmp_path: Path, seconds: Sequence[float]) -> None:
    at_most_once(tmp_path, 1, 600, seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("seed", "seconds", "threads"), [(2, WORK, 1), (3, WORK, 3), (4, NOTHING, 1), (5, NOTHING, 3), (6, WORK, 1)]
)
def test_no_request_runs_twice_however_workers_die_for_long(
    gate: Gate, tmp_path: Path, seed: int, seconds: Sequence[float], threads: int
) -> None:
    at_most_once(tmp_path, seed, 5000, seconds, threads)

"""The promises, in every mode, checked by `offloop verify` from the event log of a real server under a mixed load.

The load is seeded; what the machine makes of it is not, and need not be: the promises hold whatever happens.
"""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_in_flight
from tests.support.gate import Gate
from tests.support.load import LATE, PASSING, Load
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire

OFFLOOP = Path(sys.executable).with_name("offloop")
NARROW: dict[str, Any] = {"queue_limit": 14, "drain_timeout": 1}
HELD = dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 9), "held") | {7: "not checkable"}
"""Of a server that drained and whose workers lived until then: deaths have tests of their own."""


def kept(found: dict[int, str], mode: Mode) -> bool:
    """RabbitMQ tells how many take from a queue, and not who: whether all of their logs are there cannot be known."""
    unseen = dict.fromkeys((4, 5), "not checkable") if mode is Mode.RABBIT else {}
    return all(found[promise] in (state, unseen.get(promise, state)) for promise, state in HELD.items())


MET = {
    "terminal": {
        "ok", "invalid-payload", "too-many-pages", "gone", "node-failed", "no-reply", "cancelled", "upload-timeout",
        "deadline-exceeded", "drain-cut",
    },
    "reject": {"queue-full", "endpoint-busy", "payload-too-large", "unsupported-media-type", "draining"},
    "disconnect": {"disconnect"},
    "late_drop": {"ok"},
}  # fmt: skip
"""By kind of event, the outcomes without which a load was not mixed enough to show anything."""


def verdicts(*logs: Path) -> dict[int, str]:
    """What `offloop verify` says of each promise; it must have ended well."""
    said = subprocess.run([OFFLOOP, "verify", *logs], capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    found = re.findall(r"^(\d)  (held|violated|not checkable) ", said.stdout, re.MULTILINE)
    return {int(number): verdict for number, verdict in found}


def outcomes(*logs: Path) -> dict[str, Counter[str]]:
    """How often each outcome was met, by kind of event."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in MET}
    for line in lines(logs):
        if line["kind"] in found:
            found[line["kind"]][line["outcome"]] += 1
    return found


def missed(*logs: Path) -> dict[str, set[str]]:
    """What a mixed load should have met and did not."""
    met = outcomes(*logs)
    return {kind: rest for kind, wanted in MET.items() if (rest := wanted - met[kind].keys())}


def lines(logs: Iterable[Path]) -> list[dict[str, str]]:
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def wait_held(server: Server, gate: Gate, loops: int) -> None:
    """Until every loop is held at the gate, and requests wait behind them."""
    with httpx.Client(base_url=server.url) as client:
        for _ in range(5000):
            waiting = client.get("/offloop/status").json()["queue_depth"]
            if gate.holds(PASSING) + gate.holds(LATE) == loops and waiting:
                return
    raise AssertionError("not every loop was held")


def leave_the_queue(server: Server, gate: Gate, loops: int) -> None:
    """Callers that go away while their requests wait behind held loops, which then go on."""
    with ExitStack() as stack:
        ahead = [stack.enter_context(Wire(server.port)) for _ in range(loops)]
        for wire in ahead:
            wire.post("/gated", {"name": "ahead"})
        gate.wait("ahead", loops)
        leaving = [Wire(server.port) for _ in range(5)]
        for wire in leaving:
            wire.post("/anything", {"n": 1})
        wait_in_flight(server, "weigh_anything", len(leaving))
        for wire in leaving:
            wire.close()
        wait_in_flight(server, "weigh_anything", 0)
        gate.open("ahead")
        assert {wire.answer().status for wire in ahead} == {200}


def wait_logs(folder: Path, server: Server, processes: int) -> None:
    """Until so many server processes have begun their logs; each look is a request."""
    with httpx.Client(base_url=server.url) as client:
        for _ in range(5000):
            if len(list(folder.iterdir())) == processes:
                return
            assert client.get("/ping").status_code == 200
    raise AssertionError("a server process did not start")


def wait_refused(server: Server) -> None:
    """Until a drain has begun, and a request has been refused for it."""
    for _ in range(2000):
        with Wire(server.port) as wire:
            wire.post("/echo", {"n": 1})
            if wire.answer().json().get("reason") == "draining":
                return
    raise AssertionError("it went on admitting")


def test_they_hold_under_a_mixed_load_that_a_signal_ends(mode: Mode, gate: Gate, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with serving(APP, env=mode.env(3, event_log=log, **NARROW)) as server:
        leave_the_queue(server, gate, 3)
        with Load(server.port, gate, callers=8, seed=1) as load:
            load.wait(2500)
            load.hold()  # from here on the nodes that stand at the gate hold their loops, and work piles up behind them
            load.ending = True
            wait_held(server, gate, 3)
            server.signal(signal.SIGTERM)
            wait_refused(server)
            code = server.wait()
        gate.open(PASSING)
        gate.open(LATE)
        assert not load.faults
        assert code == -signal.SIGTERM
    assert kept(verdicts(log), mode), verdicts(log)
    assert not missed(log)


def test_they_hold_in_two_server_processes_whose_logs_are_read_together(mode: Mode, gate: Gate, tmp_path: Path) -> None:
    env = mode.env(3, event_log=tmp_path / "{host} {pid}.jsonl", **NARROW)
    # In a cluster every worker has a log of its own: each server's three, or those of the one Celery worker of both.
    count = 2 + {Mode.CLUSTER: 2 * 3, Mode.CELERY: 3, Mode.RABBIT: 3}.get(mode, 0)
    with serving(APP, "--workers", "2", env=env) as server:
        server.wait_open()
        wait_logs(tmp_path, server, count)
        with Load(server.port, gate, callers=6, seed=3) as load:
            load.wait(600)
            load.ending = True
            server.signal(signal.SIGTERM)
            server.wait()
        assert not load.faults
    logs = sorted(tmp_path.iterdir())
    assert len(logs) == count
    assert kept(verdicts(*logs), mode), verdicts(*logs)
    for log in logs if mode in (Mode.THREAD, Mode.PROCESS) else ():
        assert outcomes(log)["terminal"]["ok"]
        assert verdicts(log).items() >= {1: "held", 2: "held", 8: "held"}.items()


def test_a_log_that_was_tampered_with_is_found_out(mode: Mode, tmp_path: Path) -> None:
    log, told = tmp_path / "events.jsonl", tmp_path / "told.jsonl"
    with serving(APP, env=mode.env(1, event_log=log)) as server:
        for n in range(20):
            assert httpx.post(f"{server.url}/echo", json={"n": n}).status_code == 200
        server.signal(signal.SIGTERM)
        server.wait()
    ends = [line for line in log.read_text().splitlines() if '"terminal"' in line]
    twice = ends[0].replace('"outcome":"ok"', '"outcome":"node-failed"')
    told.write_text(log.read_text() + twice + "\n")
    said = subprocess.run([OFFLOOP, "verify", told], capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert "2  violated" in said.stdout

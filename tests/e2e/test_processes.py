"""What a node finds around it in process mode, and what of the web process reaches it there; beside thread mode."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from offloop import Blob, Offloop, errors
from tests.e2e.conftest import APP
from tests.e2e.programs import nodes
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import ROOT, serving

PROGRAM = "tests.e2e.programs.nodes"
WEB = {"fastapi", "starlette", "uvicorn", "uvloop", "httptools", "tests.e2e.programs.app"}


async def look_at_once(off: Offloop, gate: Gate, count: int) -> list[nodes.Surroundings]:
    """What so many nodes see that run at the same time."""
    looks = [asyncio.create_task(off.ask(nodes.look, nodes.Look(name="looking"))) for _ in range(count)]
    await asyncio.to_thread(gate.wait, "looking", count)
    gate.open("looking")
    return list(await asyncio.gather(*looks))


def test_a_worker_holds_neither_the_web_framework_nor_the_app(gate: Gate) -> None:
    with serving(APP, env=Mode.PROCESS.env(1)) as server:
        said = httpx.get(f"{server.url}/surroundings").json()
        assert server.workers() == {said["pid"]}
    assert not WEB & set(said["modules"])
    assert {PROGRAM, "offloop.orchestration.worker", "offloop.runners.sync"} <= set(said["modules"])


async def test_each_worker_has_its_index_in_the_environment(gate: Gate) -> None:
    async with Offloop(PROGRAM, settings=Mode.PROCESS.settings(2)) as off:
        one, two = await look_at_once(off, gate, 2)
    assert {one.worker_index, two.worker_index} == {"0", "1"}
    assert len({one.pid, two.pid, os.getpid()}) == 3
    assert one.thread == two.thread == "MainThread"  # where libraries expect to be used


async def test_in_thread_mode_nodes_run_here_and_there_is_no_index(gate: Gate) -> None:
    async with Offloop(PROGRAM, settings=Mode.THREAD.settings(2)) as off:
        one, two = await look_at_once(off, gate, 2)
    assert one.worker_index is two.worker_index is None
    assert one.pid == two.pid == os.getpid()
    assert {one.thread, two.thread} == {"offloop-loop-1", "offloop-loop-2"}


async def test_the_loops_of_one_worker_share_its_process(gate: Gate) -> None:
    async with Offloop(PROGRAM, settings=Mode.PROCESS.settings(3, per_worker=3)) as off:
        seen = await look_at_once(off, gate, 3)
    assert len({one.pid for one in seen}) == 1
    assert {one.thread for one in seen} == {"MainThread", "offloop-loop-2", "offloop-loop-3"}


async def test_settings_that_are_given_in_code_reach_nodes(mode: Mode) -> None:
    settings = mode.settings(1, max_reply=1000, debug=True)
    async with Offloop(PROGRAM, settings=settings) as off, Offloop(PROGRAM, settings=mode.settings(1)) as other:
        assert len((await off.ask(nodes.weigh_anything, Blob(b"x" * 1000))).data) == 1000
        with pytest.raises(errors.NodeFailed):
            await off.ask(nodes.weigh_anything, Blob(b"x" * 1001))
        with pytest.raises(errors.NodeFailed) as failed:
            await off.ask(nodes.fail, nodes.Failing(how="raise"))
        assert failed.value.debug is not None
        assert re.search(r'nodes\.py", line \d+, in fail\n.*\n.*a secret', failed.value.debug)
        assert len((await other.ask(nodes.weigh_anything, Blob(b"x" * 1001))).data) == 1001
        with pytest.raises(errors.NodeFailed) as failed:
            await other.ask(nodes.fail, nodes.Failing(how="raise"))
        assert failed.value.debug is None


async def test_events_name_the_worker_by_its_index_and_pid(tmp_path: Path, gate: Gate) -> None:
    log = tmp_path / "events.jsonl"
    async with Offloop(PROGRAM, settings=Mode.PROCESS.settings(2, event_log=str(log))) as off:
        seen = await look_at_once(off, gate, 2)
    told = [json.loads(line) for line in log.read_text().splitlines()]
    names = {f"worker-{one.worker_index}:{one.pid}" for one in seen}
    for kind in ("worker_up", "dequeue", "start", "finish", "worker_lost"):
        assert {line["worker"] for line in told if line["kind"] == kind} == names, kind
    assert {line["outcome"] for line in told if line["kind"] == "worker_lost"} == {"stopped"}


async def test_what_a_program_has_put_on_the_import_path_is_passed_over_as_imports_do(
    monkeypatch: pytest.MonkeyPatch, gate: Gate, tmp_path: Path
) -> None:
    odd: list[Any] = [tmp_path, None, "/caf\udce9", "/\ud800"]
    monkeypatch.setattr(sys, "path", [*sys.path, *odd])
    async with Offloop(PROGRAM, settings=Mode.PROCESS.settings(1)) as off:
        assert len(await look_at_once(off, gate, 1)) == 1


def test_a_program_that_no_other_process_can_import_is_refused_with_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\n"
        "from pydantic import BaseModel\n"
        "from offloop import Offloop, endpoint\n"
        "class Text(BaseModel):\n    text: str\n"
        "@endpoint\ndef echo(text: Text) -> Text:\n    return text\n"
        "async def main() -> None:\n    async with Offloop(__name__) as off:\n"
        "        print(await off.ask(echo, Text(text='fine')))\n"
        "asyncio.run(main())\n"
    )
    answers = {}
    for mode in Mode:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OFFLOOP_MODE": mode}
        answers[mode] = subprocess.run(
            [sys.executable, script], env=env, capture_output=True, text=True, timeout=30, check=False
        )
    assert "fine" in answers[Mode.THREAD].stdout, answers[Mode.THREAD].stderr
    assert answers[Mode.PROCESS].returncode == 1
    assert "a module of their own" in answers[Mode.PROCESS].stderr.splitlines()[-1]

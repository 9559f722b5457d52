import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from offloop.demo import death as dying
from offloop.demo.death import Death, Told, children, kill_a_worker
from offloop.demo.hosting import Server, ServerFailed

SERVER = cast(Server, type("SomeServer", (), {"pid": 1, "client": None}))
READ, LOST = Told(200, "", 0.1), Told(502, "worker-lost", 0.001)


def death(*, lost: int = 1, other: Told = READ, following: Told = READ) -> Death:
    return Death(1, [LOST] * lost, [READ, other], following, 2, 0.5)


def test_one_caller_and_no_other_loses_the_reply() -> None:
    assert death().as_promised
    assert not death(lost=0).as_promised
    assert not death(lost=2).as_promised
    assert not death(other=Told(503, "queue-full", 0.1)).as_promised
    assert not death(following=Told(503, "backend-unavailable", 0.1)).as_promised


@pytest.mark.parametrize(("missed", "kills"), [(0, 1), (2, 3), (99, dying.TRIES)])
def test_a_worker_that_was_reading_nothing_is_not_the_last(
    missed: int, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Death] = []

    async def kill(server: Server, path: str, document: bytes) -> Death:
        seen.append(death(lost=int(len(seen) >= missed)))
        return seen[-1]

    monkeypatch.setattr(dying, "_kill_one", kill)
    assert asyncio.run(kill_a_worker(SERVER, "/somewhere", b"")) is seen[-1]
    assert len(seen) == kills


def test_a_server_without_workers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dying, "children", lambda pid: [])
    with pytest.raises(ServerFailed, match="no worker processes"):
        asyncio.run(kill_a_worker(SERVER, "/somewhere", b""))


@pytest.mark.parametrize("proc", [Path("/proc"), Path("/nowhere")], ids=["proc", "ps"])
def test_the_children_of_a_process_are_found(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (proc / "self").exists() and not Path("/bin/ps").exists():
        pytest.skip("there is no ps")
    monkeypatch.setattr(dying, "PROC", proc)
    command = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert child.pid in children(os.getpid())
        assert os.getpid() in children(os.getppid())
        assert child.pid not in children(os.getppid())
    finally:
        child.communicate(b"\n")
    assert child.pid not in children(os.getpid())


def test_a_process_may_have_any_name_and_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text("12 (a) b (c) S 7 12 12 0 -1\n")
    assert dying._pid_and_parent(tmp_path / "12" / "stat") == (12, 7)
    assert dying._pid_and_parent(tmp_path / "13" / "stat") is None

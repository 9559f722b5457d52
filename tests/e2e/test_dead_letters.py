"""A request that kills whoever runs it: kept after the last try, and looked at, sent again or dropped by people."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from offloop.cli import app
from tests.e2e.test_deaths import callers, lost, post, wait_until
from tests.e2e.test_worker_command import PROGRAM, cluster, staffed, web
from tests.support.broker import broker
from tests.support.command import Env, offloop, working
from tests.support.gate import Gate
from tests.support.server import Server

__all__ = ["callers"]  # a fixture that holds here as well

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def env() -> Iterator[Env]:
    with broker("--requirepass", "geheim") as one:
        url = f"redis://:geheim@127.0.0.1:{one.port}/0"
        yield {**cluster(url), "OFFLOOP_SIGNING_KEY": "of the test", "OFFLOOP_MAX_DELIVERIES": "2"}


def dead(env: Env, *args: str, code: int = 0) -> str:
    """What the command says; never a credential."""
    ended = CliRunner().invoke(app, ["dead", *args], env=env)
    assert ended.exit_code == code, (ended.output, ended.exception)
    for secret in ("geheim", "of the test"):
        assert secret not in ended.output
    return ended.output


def listed(env: Env) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dead(env, "list", "--json"))
    return found


def kill_twice(server: Server, gate: Gate, callers: ThreadPoolExecutor, name: str) -> None:
    asking = callers.submit(post, server, "/fragile", name=name)
    for _ in range(2):
        gate.wait(name)
        gate.open(name, "die")
    lost(asking.result())


def test_a_letter_is_listed_shown_sent_again_and_dropped(env: Env, gate: Gate, callers: ThreadPoolExecutor) -> None:
    assert dead(env, "list") == "there are no dead letters\n"
    with web(env) as server, working(PROGRAM, env=env) as worker:
        staffed(server, 1, worker)
        kill_twice(server, gate, callers, "first \u2028[red]")
        kill_twice(server, gate, callers, "second")
        first, second = listed(env)
        assert (first["endpoint"], first["attempts"]) == ("fragile", 2)
        assert abs((datetime.fromisoformat(first["died_at"]) - datetime.now(UTC)).total_seconds()) < 60

        whole = offloop("dead", "list", env=env)  # as people call it, in a process of its own
        assert (whole.returncode, whole.stderr) == (0, "")
        rows = whole.stdout.splitlines()
        assert [row.split()[0] for row in rows] == ["id", first["id"], second["id"]]
        assert first["rid"] in rows[1]
        assert "fragile" in rows[1]
        shown = json.loads(dead(env, "show", first["id"], "--json"))
        assert shown["payload"] == json.dumps({"name": "first \u2028[red]"})
        assert '"name"' in dead(env, "show", first["id"])

        # Nobody may sign for the cluster without its key: what every worker would drop is not sent.
        keyless = {**env, "OFFLOOP_SIGNING_KEY": None}
        assert "OFFLOOP_SIGNING_KEY is not set" in dead(keyless, "replay", first["id"], code=1)
        assert "OFFLOOP_SIGNING_KEY is not set" in dead(keyless, "list")

        assert dead(env, "replay", first["id"]) == "1 sent again\n"
        gate.wait("first \u2028[red]")
        assert [each["id"] for each in listed(env)] == [second["id"]]
        gate.open("first \u2028[red]", "well")
        gate.wait_note("first \u2028[red] was done")
        assert "there is no dead letter" in dead(env, "replay", first["id"], code=1)

        assert dead(env, "drop", second["id"]) == "1 dropped\n"
        assert listed(env) == []
        assert worker.process.poll() is None


def test_a_letter_that_is_sent_again_has_all_its_tries_again(env: Env, gate: Gate, callers: ThreadPoolExecutor) -> None:
    with web(env) as server, working(PROGRAM, env=env) as worker:
        staffed(server, 1, worker)
        kill_twice(server, gate, callers, "stubborn")
        (before,) = listed(env)
        assert dead(env, "replay", "--all", "--timeout", "30") == "1 sent again\n"
        for _ in range(2):
            gate.wait("stubborn")
            gate.open("stubborn", "die")
        wait_until(lambda: bool(listed(env)), "it is a dead letter again")
        (after,) = listed(env)
        assert after["attempts"] == 2
        assert after["rid"] != before["rid"]
        assert dead(env, "drop", "--all") == "1 dropped\n"

"""Web processes with workers of their own (OFFLOOP_MODE=process and a broker's URL) share them, in every pool."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.support.broker import Broker, broker
from tests.support.cluster import post, said, settings, wait_until
from tests.support.gate import Gate
from tests.support.server import Server, serving

APP = "tests.e2e.programs.pooled_app:app"
POOLS = ("/near", "/aside")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@pytest.fixture(scope="module")
def webs(gate: Gate, redis: Broker) -> Iterator[list[Server]]:
    """Two, with one worker in each of two pools."""
    env = {"OFFLOOP_MODE": "process", **settings(redis.url, "shared", {"workers": 1})}
    with ExitStack() as stack:
        webs = [stack.enter_context(serving(APP, env=env)) for _ in range(2)]
        for web in webs:
            wait_until(lambda web=web: idle(web) == 4, "each knows the workers of both")  # type: ignore[misc]
        yield webs


def idle(web: Server) -> int:
    found: int = httpx.get(f"{web.url}/offloop/status").json()["workers"]["idle"]
    return found


@pytest.mark.parametrize("path", POOLS)
def test_what_one_is_asked_runs_at_the_others_workers_as_well(webs: list[Server], gate: Gate, path: str) -> None:
    for number, web in enumerate(webs):
        name = f"{path} {number}"
        with ThreadPoolExecutor(2) as callers:
            held = [callers.submit(post, web, path, name=name) for _ in range(2)]
            gate.wait(name, 2)  # at the same time, and it has one worker of that pool
            gate.open(name)
            gate.open(name)
            answers = [each.result() for each in held]
        assert [said(answer)[1] for answer in answers] == ["ok"] * 2
        pids = {answer.json()["pid"] for answer in answers}
        assert len(pids) == 2
        assert all(pids & each.workers() for each in webs)


def test_the_others_go_on_when_one_ends(webs: list[Server], redis: Broker, gate: Gate) -> None:
    env = {"OFFLOOP_MODE": "process", **settings(redis.url, "shared", {"workers": 1})}
    with serving(APP, env=env) as third:
        wait_until(lambda: idle(webs[0]) == 6, "it has come")
        third.signal(15)
        third.wait()
    wait_until(lambda: idle(webs[0]) == 4, "it has left")
    for path in POOLS:
        with ThreadPoolExecutor(1) as callers:
            asking = callers.submit(post, webs[0], path, name=f"left {path}")
            gate.wait(f"left {path}")
            gate.open(f"left {path}")
            assert said(asking.result())[1] == "ok"

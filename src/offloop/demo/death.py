"""A worker process is killed while it reads: what its caller, the other callers and the next one are told.

Owns the killing and what is seen of it, from the outside: processes by their parent, answers by HTTP. It prints
nothing, and the server is not told.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offloop.demo.client import Answer, Client
from offloop.demo.hosting import Server, ServerFailed
from offloop.demo.measure import CALLERS

PROC = Path("/proc")
MOST = 64
"""Callers at once; the endpoint lets 100 in."""
TRIES = 5
"""Kills at most. One may hit a worker that has just answered, and loses nothing then."""
COMES_WITHIN = 30.0
"""Seconds for the next worker to be ready."""
LOOK = 0.01
"""Seconds between two looks at what has changed."""


class Told(NamedTuple):
    """What a caller was told, and how many seconds after the kill; before it, they are negative."""

    status: int
    reason: str
    after: float


@dataclass(frozen=True)
class Death:
    """One worker's end and what came of it.

    Attributes:
        killed: its pid.
        lost: the callers who were told `worker-lost`.
        others: those who asked when they did, and were told something else.
        following: who asked after the loss was told.
        successor: the pid of the worker in its place.
        ready: seconds from the kill until that one was ready.
    """

    killed: int
    lost: Sequence[Told]
    others: Sequence[Told]
    following: Told
    successor: int
    ready: float

    @property
    def as_promised(self) -> bool:
        """One request was lost, and no other."""
        return len(self.lost) == 1 and all(told.status == 200 for told in (*self.others, self.following))


async def kill_a_worker(server: Server, path: str, document: bytes) -> Death:
    """Let callers send a document so that every worker reads; kill one of the workers.

    Raises:
        ServerFailed: it has no worker that can be seen.
        ExceptionGroup: of OSError, where the server went away; of ServerFailed, where no worker came to replace it.
    """
    tries = 1
    while not (death := await _kill_one(server, path, document)).lost and tries < TRIES:
        tries += 1
    return death


async def _kill_one(server: Server, path: str, document: bytes) -> Death:
    client, now = server.client, asyncio.get_running_loop().time
    workers = children(server.pid)
    if not workers:
        raise ServerFailed("the server has no worker processes that can be seen")
    killed_at = float("inf")

    async def caller() -> tuple[Answer, float]:
        return await client.send("POST", path, document, "application/pdf"), now()

    def told(answer: Answer, at: float) -> Told:
        return Told(answer.status, "" if answer.status == 200 else answer.json()["reason"], at - killed_at)

    async with asyncio.TaskGroup() as tasks:
        # Twice as many as there are workers: some wait, and so none is idle for a while.
        callers = min(MOST, max(CALLERS, 2 * len(workers)))
        asking = [tasks.create_task(caller()) for _ in range(callers)]
        await _all_read(client, min(len(workers), callers), asking)
        killed_at = now()
        os.kill(workers[0], signal.SIGKILL)
        coming = tasks.create_task(_successor(server, workers))
        answers: list[Told] = []
        for asked in asyncio.as_completed(asking):
            answers.append(told(*await asked))
            if answers[-1].reason == "worker-lost":
                break
        following = told(*await caller())
    answers = [told(*asked.result()) for asked in asking]
    successor, ready_at = coming.result()
    return Death(
        workers[0],
        [answer for answer in answers if answer.reason == "worker-lost"],
        [answer for answer in answers if answer.reason != "worker-lost"],
        following, successor, ready_at - killed_at,
    )  # fmt: skip


async def _all_read(client: Client, busy: int, asking: Sequence[asyncio.Task[tuple[Answer, float]]]) -> None:
    """Until so many workers are busy. Gives up when everybody has been answered."""
    while not all(asked.done() for asked in asking):
        if (await _workers(client))["busy"] >= busy:
            return


async def _successor(server: Server, before: Sequence[int]) -> tuple[int, float]:
    """The pid of the worker that is new, and when all were ready again."""
    try:
        async with asyncio.timeout(COMES_WITHIN):
            while True:
                come = [pid for pid in children(server.pid) if pid not in before]
                if come and sum((await _workers(server.client)).values()) == len(before):
                    return come[0], asyncio.get_running_loop().time()
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise ServerFailed(f"no worker took the place of the one that was killed within {COMES_WITHIN:.0f} s") from None


async def _workers(client: Client) -> dict[str, int]:
    """How many workers are idle, busy and so on."""
    states: dict[str, int] = (await client.send("GET", "/offloop/status")).json()["workers"]
    return states


def children(pid: int) -> list[int]:
    """The processes that one has started and that have not been seen to their end."""
    if (PROC / "self" / "stat").exists():
        pairs = [pair for path in PROC.glob("[0-9]*/stat") if (pair := _pid_and_parent(path)) is not None]
    else:  # macOS. Linux always has /proc; small images have no `ps`.
        listed = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        pairs = [(int(own), int(parent)) for own, parent in map(str.split, listed.stdout.splitlines())]
    return sorted(own for own, parent in pairs if parent == pid)


def _pid_and_parent(stat: Path) -> tuple[int, int] | None:
    """From /proc/PID/stat; None for one that has gone by now."""
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return None
    # The name before it may hold blanks and brackets; the state is one letter (proc(5)).
    return int(stat.parent.name), int(text.rpartition(")")[2].split()[1])

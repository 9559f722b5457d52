"""Honest histories, told as an offloop with two loops would tell them, for the checker of promises and its tests.

Owns what a history without a fault looks like. It holds no fault: those are put in by the tests.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Lines = list[dict[str, Any]]

TIMEOUT = 10.0
"""Seconds of every request's deadline, unless a story says otherwise."""


class Story:
    """One process, from `open` to `close`. Times are seconds; each method tells of one request."""

    def __init__(self, mode: str = "thread", queue_limit: int = 100, max_in_flight: int = 100) -> None:
        self.max_in_flight = max_in_flight
        self.told: Lines = []
        self.say(0.0, "open", limit=queue_limit, value=3.0, mode=mode)

    def say(self, t: float, kind: str, rid: str = "", **fields: Any) -> dict[str, Any]:
        line = {"t": t, "rid": rid, "kind": kind, "endpoint": "read" if rid else "", "attempt": 1, "deadline": 0.0,
                "outcome": "", "started": None} | fields  # fmt: skip
        self.told.append(line)
        return line

    # ---- the parts of a request

    def admit(self, rid: str, t: float, timeout: float = TIMEOUT, **policy: Any) -> float:
        """Admitted and enqueued; returns the deadline."""
        deadline = t + timeout
        self.say(t, "arrive", rid)
        self.say(t, "admit", rid, deadline=deadline, limit=self.max_in_flight, **policy)
        self.say(t, "waiter_add", rid, deadline=deadline)
        self.say(t + 0.001, "enqueue", rid, deadline=deadline)
        return deadline

    def start(self, rid: str, t: float, deadline: float, attempt: int = 1, worker: str = "loop-1") -> None:
        self.say(t, "dequeue", rid, attempt=attempt, deadline=deadline, worker=worker)
        self.say(t, "start", rid, attempt=attempt, deadline=deadline, worker=worker)

    def finish(self, rid: str, t: float, outcome: str = "ok", attempt: int = 1, worker: str = "loop-1") -> None:
        self.say(t, "finish", rid, outcome=outcome, attempt=attempt, worker=worker, size=7)

    def end(self, rid: str, t: float, outcome: str, started: bool | None, attempt: int = 1, begun: float = 0.0) -> None:
        size = 7 if outcome == "ok" else 0
        self.say(t, "terminal", rid, outcome=outcome, started=started, attempt=attempt, begun_at=begun, size=size)
        self.say(t, "waiter_del", rid)

    # ---- whole requests

    def ok(self, rid: str, t: float, wait: float = 0.1, run: float = 0.2, outcome: str = "ok", **policy: Any) -> None:
        deadline = self.admit(rid, t, **policy)
        self.start(rid, t + wait, deadline)
        self.finish(rid, t + wait + run, outcome)
        self.end(rid, t + wait + run + 0.001, outcome, True, begun=t + wait)

    def rejected(self, rid: str, t: float, reason: str = "queue-full") -> None:
        self.say(t, "arrive", rid)
        self.say(t, "reject", rid, outcome=reason)

    def expired(self, rid: str, t: float) -> None:
        deadline = self.admit(rid, t)
        self.end(rid, deadline + 0.002, "expired-in-queue", False)

    def left(self, rid: str, t: float, wait: float = 0.1) -> None:
        """Its caller left before it began."""
        self.admit(rid, t)
        self.say(t + wait, "disconnect", rid, outcome="disconnect")
        self.end(rid, t + wait, "cancelled", False)

    def finishes(self, rid: str, t: float, wait: float = 0.1, run: float = 0.2) -> None:
        """Its caller left before it began, and it ran all the same, as its endpoint has it."""
        deadline = self.admit(rid, t, finishes=True)
        self.say(t + wait / 2, "disconnect", rid, outcome="disconnect")
        self.start(rid, t + wait, deadline)
        self.finish(rid, t + wait + run)
        self.end(rid, t + wait + run, "ok", True, begun=t + wait)

    def late(self, rid: str, t: float, wait: float = 0.1, over: float = 0.5) -> None:
        """It ran past its deadline, and its reply came `over` seconds late."""
        deadline = self.admit(rid, t)
        self.start(rid, t + wait, deadline)
        self.end(rid, deadline + 0.003, "deadline-exceeded", True, begun=t + wait)
        self.finish(rid, deadline + over)
        self.say(deadline + over + 0.001, "late_drop", rid, endpoint="", outcome="ok", worker="loop-1")

    def lost(self, rid: str, t: float, wait: float = 0.1, run: float = 0.2) -> None:
        """Its worker died while running it."""
        worker = f"loop-of-{rid}"
        deadline = self.admit(rid, t)
        self.start(rid, t + wait, deadline, worker=worker)
        self.say(t + wait + run, "worker_lost", worker=worker, outcome="killed")
        self.end(rid, t + wait + run + 0.01, "worker-lost", True, begun=t + wait)

    def retried(self, rid: str, t: float, wait: float = 0.1, run: float = 0.2) -> None:
        """Its first worker died, and it may begin again."""
        worker = f"loop-of-{rid}"
        deadline = self.admit(rid, t, idempotent=True)
        self.start(rid, t + wait, deadline, worker=worker)
        self.say(t + wait + run, "worker_lost", worker=worker, outcome="killed")
        self.start(rid, t + 2 * wait + run, deadline, attempt=2)
        self.finish(rid, t + 2 * wait + 2 * run, attempt=2)
        self.end(rid, t + 2 * wait + 2 * run, "ok", True, attempt=2, begun=t + 2 * wait + run)

    # ---- the process

    def drain(self, t: float, budget: float = 20.0, delay: float = 0.0, end: float | None = None) -> None:
        self.say(t, "drain_begin", value=budget, ended_at=t + delay)
        self.say(t + budget if end is None else end, "drain_end", value=0.0)

    def lag(self, begin: float, end: float) -> None:
        self.say(end, "lag", value=end - begin)

    def lines(self, *, close: bool = True) -> Lines:
        """In order of time, numbered, with `close` a second after everything."""
        told = sorted(self.told, key=lambda line: line["t"])
        if close:
            self.say(told[-1]["t"] + 1.0, "close")
            told.append(self.told.pop())
        return number(told)


def number(lines: Iterable[dict[str, Any]], **identity: Any) -> Lines:
    """The same lines as one process writes them, in this order."""
    who = {"host": "web-1", "boot": "b0", "pid": 7, "run": "r0"} | identity
    return [line | who | {"seq": seq} for seq, line in enumerate(lines, 1)]


def changed(lines: Lines, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Lines:
    """With some lines changed, or left out where `change` says None; in order of time, numbered anew."""
    kept = [new for line in lines if (new := change(dict(line))) is not None]
    return number(sorted(kept, key=lambda line: line["t"]))


def without(lines: Lines, *kinds: str, rid: str | None = None) -> Lines:
    return changed(lines, lambda line: None if line["kind"] in kinds and rid in (None, line["rid"]) else line)


def write(path: Path, lines: Lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path

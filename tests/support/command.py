"""The command `offloop` in a process of its own: one that stays (`worker`), and those that end (`dead`)."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Self
from uuid import uuid4

import httpx

from tests.support.server import DEADLINE, MARK, ROOT, Server

RUN = "from offloop.cli import app; app()"

Env = dict[str, str | None]


def environ(env: Env, **more: str) -> dict[str, str]:
    """This process's environment with these in it; None as a value takes a name out of it."""
    whole: Env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env, **more}
    return {name: value for name, value in whole.items() if value is not None}


def offloop(*args: str, env: Env) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-c", RUN, *args],
        env=environ(env), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


class Worker(Server):
    """`offloop worker …`, with probes on a port that the system chose.

    Args:
        args: packages and options.
        terminal: where its output goes, if it is to be a terminal: the other end of it; else a pipe.
    """

    def __init__(self, *args: str, env: Env, terminal: int | None = None) -> None:
        mark = uuid4().hex
        self._mark = f"{MARK}={mark}"
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        out = subprocess.PIPE if terminal is None else terminal
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, "worker", *args, "--health-port", "0"],
            stdout=out, stderr=subprocess.STDOUT if terminal is None else terminal, text=True, errors="replace",
            env=environ(env, **{MARK: mark}), cwd=ROOT,
        )  # fmt: skip
        if terminal is None:
            threading.Thread(target=self._read, daemon=True).start()
        else:
            self._ended = True
        self.port = 0

    def __enter__(self) -> Self:
        return self

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages."""
        if not self.port:
            self.port = int(self.wait_line(r"probes are answered on http://127\.0\.0\.1:(\d+)").group(1))
        answer = httpx.get(f"{self.url}{path}", timeout=DEADLINE)
        return answer.status_code, answer.text

    def wait_probe(self, path: str, status: int, text: str = "", timeout: float = DEADLINE) -> str:
        """Until a page answers so, with that in its text."""
        until = monotonic() + timeout
        while True:
            found = self.probe(path)
            if found[0] == status and re.search(text, found[1], re.MULTILINE):
                return found[1]
            assert monotonic() < until, f"{path} answers {found}:\n{self.log}"
            with self._changed:
                self._changed.wait(0.02)


@contextmanager
def working(*args: str, env: Env) -> Iterator[Worker]:
    """One that is started; killed at the end if it still runs."""
    with Worker(*args, env=env) as worker:
        yield worker

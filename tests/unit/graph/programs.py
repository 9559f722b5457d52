"""What tests of whole user programs share: the lines every program begins with, and a way to run one request."""

import sys
from typing import Any

from offloop import Job
from offloop.graph.program import Program

PRELUDE = """\
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from dishka import FromDishka, Provider, Scope, provide
from offloop import Blob, Endpoint, Job, Problem, endpoint, node
@dataclass
class A: n: int = 0
@dataclass
class B: n: int = 0
@dataclass
class C: n: int = 0
@dataclass
class D: n: int = 0
"""
"""Ten lines before every program's own: line 1 of a test's source is line 14."""
FIRST_LINE = PRELUDE.count("\n") + 1


def module_of(program: Program) -> Any:
    """The module of the first node."""
    return sys.modules[program.nodes[0].module]


class Heard:
    """An Out that keeps what it is given, in order."""

    def __init__(self) -> None:
        self.chunks: list[object] = []
        self.replies: list[object] = []
        self.lasts: list[bool] = []

    def chunk(self, message: object) -> None:
        self.chunks.append(message)

    def reply(self, message: object, *, last: bool) -> None:
        self.replies.append(message)
        self.lasts.append(last)


def run(program: Program, endpoint: str, message: object, job: Job | None = None, out: Heard | None = None) -> Heard:
    """One request through a program whose nodes need no services."""
    heard = out or Heard()
    program.route(endpoint).run(message, job or Job.fake(), None, heard)
    return heard

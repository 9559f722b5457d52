"""User programs written by tests: real modules on the import path, gone again afterwards."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from offloop import Job
from offloop.errors import PreflightError
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

numbers = itertools.count(1)

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module, or a package of several, and returns its name. Keywords are submodules, `a__b` meaning a/b."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def to(path: Path, source: str, prelude: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(prelude + dedent(source).lstrip("\n"))

    def write(source: str = "", /, *, prelude: str = PRELUDE, **modules: str) -> str:
        name = f"user_program_{next(numbers)}"
        if not modules:
            to(tmp_path / f"{name}.py", source, prelude)
        else:
            to(tmp_path / name / "__init__.py", source, prelude if source else "")
            for module, text in modules.items():
                path = tmp_path.joinpath(name, *module.split("/"))
                to(path.with_suffix(".py"), text, prelude)
                for folder in path.relative_to(tmp_path / name).parents:
                    (tmp_path / name / folder / "__init__.py").touch()
        importlib.invalidate_caches()
        return name

    yield write
    for module in set(sys.modules) - before:
        if module.startswith("user_program_"):
            del sys.modules[module]


@pytest.fixture
def load(write: Write) -> Callable[..., Program]:
    """Loads a program from its source."""
    return lambda *sources, **modules: Program.load(write(*sources, **modules))


@pytest.fixture
def faults(write: Write) -> Callable[..., list[str]]:
    """The faults of a program that preflight refuses."""

    def faults(*sources: str, **modules: str) -> list[str]:
        with pytest.raises(PreflightError) as refused:
            Program.load(write(*sources, **modules))
        return refused.value.faults

    return faults


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

"""User programs written by tests: real modules on the import path, gone again afterwards."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from offloop.errors import PreflightError
from offloop.graph.program import Program
from tests.unit.graph.programs import PRELUDE

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

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offloop.cli import app

GOOD = """
from pydantic import BaseModel
from offloop import endpoint

class Text(BaseModel):
    text: str

class Size(BaseModel):
    size: int

@endpoint(http="POST /sizes", timeout=2.5, max_in_flight=7)
def size_of(text: Text) -> Size:
    return Size(size=len(text.text))

@endpoint(http="POST /forget")
def forget(text: Text) -> None:
    return None
"""
BAD = """
from offloop import endpoint, node

@endpoint(http="POST /a")
def first(text):
    return None

@node
def second(number) -> None:
    return None
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with packages in it; what they imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_version_prints_the_installed_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"offloop {version('offloop')}\n")


def test_check_of_a_good_program_prints_its_endpoints_and_exits_0(here: Path):
    (here / "good_program.py").write_text(GOOD)
    result = run("check", "good_program")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["size_of", "Text", "→", "Size", "POST", "/sizes", "2.5", "s", "7"] in rows
    assert ["forget", "Text", "→", "None", "POST", "/forget", "15", "s", "100"] in rows


def test_check_of_a_faulty_program_prints_every_fault_on_stderr_and_exits_1(here: Path):
    (here / "bad_program.py").write_text(BAD)
    result = run("check", "bad_program")
    assert result.exit_code == 1
    assert result.stdout == ""
    for function in ("first", "second"):
        assert function in result.stderr
    assert "bad_program.py" in result.stderr


@pytest.mark.usefixtures("here")
def test_check_of_a_package_that_is_not_there_names_it_on_one_line():
    result = run("check", "no_such_package.nodes")
    assert result.exit_code == 1
    assert "no_such_package" in result.stderr
    assert result.stderr.count("\n") == 1


def test_check_shows_the_traceback_of_what_the_package_fails_to_import(here: Path):
    (here / "needy_program.py").write_text("import a_package_nobody_has\n")
    result = run("check", "needy_program")
    assert result.exit_code == 1
    assert isinstance(result.exception, ModuleNotFoundError | SystemExit)
    assert "a_package_nobody_has" in f"{result.exception} {result.stderr}"


def test_verify_exits_2_for_a_log_that_cannot_be_read(tmp_path):
    result = run("verify", str(tmp_path / "missing.log"))
    assert result.exit_code == 2
    assert "missing.log" in result.output


@pytest.mark.parametrize("missing", [("pypdf",), ("uvicorn",), ("pypdf", "uvicorn")])
def test_the_demo_without_its_extra_says_which_one_to_install(monkeypatch, missing):
    from importlib.util import find_spec

    monkeypatch.setattr("offloop.cli.find_spec", lambda name: None if name in missing else find_spec(name))
    result = run("demo", "--once")
    assert result.exit_code == 1
    assert result.stderr == f"the demo needs {' and '.join(missing)}: pip install 'offloop[demo]'\n"


def test_the_demo_is_given_its_files_and_options_and_its_exit_code_is_ours(monkeypatch):
    seen = []

    def shown(files, *, once, port):
        seen.append((files, once, port))
        return 3

    monkeypatch.setattr("offloop.demo.show.run", shown)
    assert run("demo", "a.pdf", "b.pdf", "--once", "--port", "0").exit_code == 3
    assert run("demo").exit_code == 3
    assert seen == [([Path("a.pdf"), Path("b.pdf")], True, 0), ([], False, None)]


def test_the_command_line_imports_no_extra_and_no_web_framework():
    extras = ["fastapi", "starlette", "uvicorn", "pypdf", "redis", "celery"]
    code = f"""
import json, sys
from typer.testing import CliRunner
from offloop.cli import app
from offloop.graph import program
from offloop.telemetry import verify
print(json.dumps([name for name in {extras} if name in sys.modules]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []

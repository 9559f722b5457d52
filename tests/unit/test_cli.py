import json
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offloop import Settings
from offloop.assembly import broker_of
from offloop.cli import app
from tests.support.broker import Broker, broker

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


# ---- worker and dead: what is wrong before anything runs


@pytest.fixture
def no_broker(monkeypatch):
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OFFLOOP_BROKER_URL", f"redis://me:geheim@127.0.0.1:{port}/0")


@pytest.fixture(autouse=True)
def _logging_is_left_alone(monkeypatch):
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


POOLED = GOOD.replace("timeout=2.5", 'timeout=2.5, pool="gpu"')


def test_a_worker_needs_to_know_where_requests_are(here: Path, monkeypatch):
    monkeypatch.delenv("OFFLOOP_BROKER_URL", raising=False)
    (here / "good_program.py").write_text(GOOD)
    result = run("worker", "good_program")
    assert result.exit_code == 1
    assert result.stderr == "OFFLOOP_BROKER_URL is not set: say where requests are, as redis://localhost:6379/0\n"


@pytest.mark.parametrize("scheme", ["celery+redis", "celery+amqp"])
@pytest.mark.parametrize("command", [("worker", "good_program"), ("dead", "list")])
def test_a_broker_behind_celery_is_refused_without_its_credentials(here: Path, monkeypatch, scheme, command):
    monkeypatch.setenv("OFFLOOP_BROKER_URL", f"{scheme}://me:geheim@localhost")
    (here / "good_program.py").write_text(GOOD)
    result = run(*command)
    assert result.exit_code == 1
    assert "`celery worker`" in result.stderr
    assert "geheim" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("no_broker")
def test_a_worker_of_a_faulty_program_says_every_fault(here: Path):
    (here / "bad_program.py").write_text(BAD)
    result = run("worker", "bad_program")
    assert result.exit_code == 1
    assert result.stderr.startswith("preflight found ")
    for function in ("first", "second"):
        assert function in result.stderr


@pytest.mark.usefixtures("no_broker")
def test_a_pool_that_no_endpoint_names_is_named_with_those_that_are(here: Path):
    (here / "pooled_program.py").write_text(POOLED)
    result = run("worker", "pooled_program", "--pool", "cpu")
    assert result.exit_code == 1
    expected = "no endpoint of pooled_program is in the pool 'cpu': its endpoints are in default, gpu\n"
    assert result.stderr == expected


@pytest.mark.parametrize("option", ["--concurrency", "--threads"])
def test_a_worker_has_at_least_one_of_each(option):
    result = run("worker", "any", option, "0")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("here")
def test_a_setting_that_cannot_be_is_named_on_one_line(monkeypatch):
    monkeypatch.setenv("OFFLOOP_DRAIN_TIMEOUT", "soon")
    result = run("worker", "any")
    assert result.exit_code == 1
    assert result.stderr == "OFFLOOP_DRAIN_TIMEOUT is 'soon': it may be a number of seconds, 0 or more\n"


@pytest.mark.parametrize("url", ["redis://10.1.2.3:6379/0", "redis://me:geheim@broker.example.org:6379/1"])
@pytest.mark.parametrize("key", [None, "a key"])
def test_unsigned_requests_on_a_broker_that_others_reach_are_a_warning(caplog, url, key):
    address = broker_of(Settings(broker_url=url, signing_key=(key,) if key else ()))
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (0 if key else 1)
    assert "geheim" not in f"{address} {warned}"
    if warned:
        assert f"requests on {address} are not signed" in warned[0]
        assert "OFFLOOP_SIGNING_KEY" in warned[0]


@pytest.mark.parametrize("url", ["redis://localhost/0", "redis://127.0.0.1:6379/0", "redis+unix:///run/redis.sock"])
def test_on_loopback_they_are_none(caplog, url):
    broker_of(Settings(broker_url=url))
    assert caplog.records == []


@pytest.mark.usefixtures("no_broker")
@pytest.mark.parametrize("command", [("list",), ("show", "1-1"), ("replay", "--all"), ("drop", "1-1")])
def test_a_broker_that_is_not_there_is_one_line(command):
    result = run("dead", *command)
    assert result.exit_code == 1
    assert result.stderr.startswith("the broker cannot be asked: 127.0.0.1:")
    assert result.stderr.count("\n") == 1
    assert "geheim" not in result.output


@pytest.mark.parametrize("command", ["replay", "drop"])
@pytest.mark.parametrize("arguments", [(), ("1-1", "--all")])
def test_letters_are_named_or_all_of_them(redis: Broker, command, arguments):
    result = run("dead", command, *arguments)
    assert result.exit_code == 2
    assert "name letters by their ids, or say --all" in result.stderr


@pytest.mark.parametrize("id_", ["1-1", "x", "", "\x1b[31m", "$", "+"])
def test_a_letter_that_is_not_there_is_named_in_characters_that_no_terminal_acts_on(redis: Broker, id_):
    for command in (("show", id_), ("drop", id_), ("replay", "--timeout", "5", id_)):
        result = run("dead", *command)
        assert result.exit_code == 1
        assert "there is no dead letter" in result.stderr
        assert "\x1b" not in result.stderr


def test_those_that_are_there_are_acted_on_where_others_are_not(redis: Broker):
    there = redis.cli("XADD", "offloop:dead:default", "*", "e", b"noise").decode()
    listed = run("dead", "list")
    assert "(it cannot be read)" in listed.stdout
    assert json.loads(run("dead", "show", there, "--json").stdout)["unreadable"] == "it cannot be read"
    assert "it cannot be read" in run("dead", "show", there).stdout
    result = run("dead", "drop", "1-1", there)
    assert (result.exit_code, result.stdout) == (1, "1 dropped\n")
    assert run("dead", "list", "--json").stdout == "[]\n"


def test_one_that_cannot_be_believed_is_not_sent_again(redis: Broker):
    there = redis.cli("XADD", "offloop:dead:default", "*", "e", b"noise").decode()
    result = run("dead", "replay", "--all")
    assert (result.exit_code, result.stdout) == (1, "0 sent again\n")
    assert result.stderr == f"{there} is not sent again: it cannot be read\n"
    assert run("dead", "drop", "--all").stdout == "1 dropped\n"


@pytest.fixture
def redis(monkeypatch):
    with broker() as one:
        monkeypatch.setenv("OFFLOOP_BROKER_URL", one.url)
        yield one

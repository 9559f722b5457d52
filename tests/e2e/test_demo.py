"""The demo as a newcomer runs it: a real server, real documents, real signals."""

import io
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from offloop.demo import measure
from offloop.demo import show as demo
from offloop.demo.client import Client
from offloop.demo.death import children
from offloop.demo.hosting import Server, serving
from tests.unit.demo.pdfs import encrypted, pdf

DEADLINE = 40.0
BRIEFLY = "note-on-waiting.pdf"
SHOW = f"""
import sys
from offloop.demo import measure, show
measure.WORTH, show.MEASURED = 0.0, {BRIEFLY!r}
sys.exit(show.run(once=False, port=0))
"""


WAYS = (
    "nothing else", "async def route", "def route (thread pool)", "offloop, thread mode", "offloop, process mode",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OFFLOOP_MODE", raising=False)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison reads a short document: what is tested is not in it."""
    monkeypatch.setattr(demo, "MEASURED", BRIEFLY)
    monkeypatch.setattr(measure, "WORTH", 0.0)


def show(*files: Path, port: int | None = None) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=80)
    code = demo.run(files, once=True, port=port, console=console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def served_at(text: str) -> int:
    (port,) = set(re.findall(r"http://127\.0\.0\.1:(\d+), \w+ mode", text))
    return int(port)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def shown() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The demo in a process of its own, serving. Its output goes on being read."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Whatever ignores signals around the tests, the demo gets them as from a terminal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    lines: list[str] = []
    serving, ended = threading.Event(), threading.Event()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line)
                if "Ctrl-C" in line:
                    serving.set()
        ended.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert serving.wait(DEADLINE), "".join(lines)
        yield process, lines
        # The server holds the other end of its standard error: the output ends when both have.
        assert ended.wait(DEADLINE), "the demo left its server behind"
    finally:
        process.kill()
        process.wait()
        reader.join(DEADLINE)


@pytest.fixture(scope="module")
def text() -> str:
    """All that it prints with no arguments."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("OFFLOOP_MODE", raising=False)
        monkeypatch.setattr(demo, "MEASURED", BRIEFLY)
        monkeypatch.setattr(measure, "WORTH", 0.0)
        code, text = show()
    assert code == 0, text
    return text


def test_the_bundled_documents_are_read_and_compared_and_nothing_is_left_behind(text: str) -> None:
    documents, comparison = text.split("How long GET /ping waits meanwhile")
    rows = {line.split()[0]: line.split() for line in documents.splitlines() if ".pdf" in line}
    assert rows["note-on-waiting.pdf"][1:3] == ["2", "478"]
    assert rows["saying-no-in-time.pdf"][1:3] == ["11", "2,890"]
    assert rows["guide-to-queues.pdf"][1:3] == ["60", "8,196"]
    assert "422 broken-pdf: The file is" in text
    assert ", process mode\n" in text
    for way in WAYS:
        assert way in comparison
    assert "One ping in a hundred" in comparison
    assert not answers(served_at(text))


def test_a_worker_that_is_killed_costs_one_caller_the_reply_and_another_takes_its_place(text: str) -> None:
    _, told = text.split("A worker process is killed")
    (killed,) = re.findall(r"a worker, pid (\d+) +killed", told)
    (successor,) = re.findall(r"a new worker, pid (\d+) +ready", told)
    assert killed != successor
    assert re.search(r"the caller for whom it was reading +502 worker-lost +[\d.]+ m?s", told)
    assert re.search(r"a caller who came after that +200 ", told)
    assert re.search(r"\d+ other callers, to the last +200 ", told)


@pytest.mark.usefixtures("brief")
def test_another_mode_serves_where_the_environment_says_so_and_both_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OFFLOOP_MODE", "thread")
    code, text = show()
    assert code == 0, text
    assert ", thread mode\n" in text
    for way in WAYS:
        assert way in text
    assert "502 worker-lost" in text


def test_a_server_that_goes_away_in_the_middle_is_said_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[Server] = []

    @asynccontextmanager
    async def noted(ports: Sequence[int], mode: str | None = None) -> AsyncIterator[Server]:
        async with serving(ports, mode) as server:
            servers.append(server)
            yield server

    async def killed(client: Client) -> measure.Measured:
        os.kill(servers[0].pid, signal.SIGKILL)
        return await measure.quiet(client)

    monkeypatch.setattr(demo, "serving", noted)
    monkeypatch.setattr(demo, "quiet", killed)
    monkeypatch.setattr(measure, "WORTH", 0.0)
    code, text = show()

    assert code == 1
    assert re.search(r"^offloop demo: the server (went away|ended)", text, re.MULTILINE)
    assert not any(answers(server.port) for server in servers)


@pytest.mark.slow
def test_the_whole_show_as_a_newcomer_starts_it() -> None:
    command = [sys.executable, "-c", "from offloop.cli import app; app()", "demo", "--once"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert max(len(line) for line in ended.stdout.splitlines()) <= 80
    for mode in ("thread", "process"):
        assert re.search(rf"offloop, {mode} mode( +[\d.]+ m?s){{3}} +\d+ +[\d.]+ s", ended.stdout)
    assert "502 worker-lost" in ended.stdout


@pytest.mark.usefixtures("brief")
def test_files_of_ones_own_that_cannot_be_read_are_rows_and_exit_1(tmp_path: Path) -> None:
    files = {
        "good.pdf": pdf("The event loop is the event loop."),
        "broken.pdf": b"no PDF",
        "locked.pdf": encrypted(pdf("secret"), user="secret"),
        "blank.pdf": pdf(""),
        "empty.pdf": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    code, text = show(*(tmp_path / name for name in files), tmp_path / "missing.pdf")

    assert code == 1
    rows = " ".join(text.split())
    assert re.search(r"good\.pdf 1 7 [\d.]+ m?s event loop", rows)
    assert "422 broken-pdf" in rows
    assert "422 encrypted-pdf" in rows
    assert rows.count("422 empty-pdf") == 2
    assert "No such file or directory" in rows


@pytest.mark.usefixtures("brief")
def test_a_file_that_can_be_read_exits_0(tmp_path: Path) -> None:
    (tmp_path / "good.pdf").write_bytes(pdf("The event loop is the event loop."))
    code, text = show(tmp_path / "good.pdf")
    assert code == 0, text


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, text = show(port=taken.getsockname()[1])
    assert code == 1
    assert text == "offloop demo: the server did not start: exit code 1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_it_and_exits_0(number: signal.Signals) -> None:
    with shown() as (process, lines):
        port = served_at("".join(lines))
        assert answers(port)
        assert f"A page to try it with: http://127.0.0.1:{port}/\n" in lines
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
        assert not answers(port)
    assert [line.strip() for line in lines[-2:]] == ["Draining.", "Drained and ended."]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes that are not its own")
def test_killed_it_leaves_no_server_and_no_worker_behind() -> None:
    with shown() as (process, lines):
        port = served_at("".join(lines))
        (server,) = children(process.pid)
        workers = children(server)
        assert workers
        ends = [os.pidfd_open(worker) for worker in workers]
        process.kill()
        process.wait(DEADLINE)
    for end in ends:
        assert select.select([end], [], [], DEADLINE)[0]
        os.close(end)
    assert not answers(port)

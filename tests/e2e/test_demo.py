"""The demo as a newcomer runs it: a real server, real documents, real signals."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from offloop.demo import measure
from offloop.demo import show as demo
from tests.unit.demo.pdfs import encrypted, pdf

DEADLINE = 40.0
BRIEFLY = "note-on-waiting.pdf"
SHOW = f"""
import sys
from offloop.demo import measure, show
measure.WORTH, show.MEASURED = 0.0, {BRIEFLY!r}
sys.exit(show.run(once=False, port=0))
"""


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
    (port,) = set(re.findall(r"http://127\.0\.0\.1:(\d+), thread mode", text))
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


@pytest.mark.usefixtures("brief")
def test_the_bundled_documents_are_read_and_compared_and_nothing_is_left_behind() -> None:
    code, text = show()

    assert code == 0, text
    documents, comparison = text.split("How long GET /ping waits meanwhile")
    rows = {line.split()[0]: line.split() for line in documents.splitlines() if ".pdf" in line}
    assert rows["note-on-waiting.pdf"][1:3] == ["2", "478"]
    assert rows["saying-no-in-time.pdf"][1:3] == ["11", "2,890"]
    assert rows["guide-to-queues.pdf"][1:3] == ["60", "8,196"]
    assert "422 broken-pdf: The file is" in text
    for way in ("nothing else", "async def route", "def route (thread pool)", "offloop, thread mode"):
        assert way in comparison
    assert "One ping in a hundred" in comparison
    assert not answers(served_at(text))


@pytest.mark.slow
def test_the_whole_show_as_a_newcomer_starts_it() -> None:
    command = [sys.executable, "-c", "from offloop.cli import app; app()", "demo", "--once"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert max(len(line) for line in ended.stdout.splitlines()) <= 80
    assert re.search(r"offloop, thread mode( +[\d.]+ m?s){3} +\d+ +[\d.]+ s", ended.stdout)


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
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
        assert not answers(port)
    assert [line.strip() for line in lines[-2:]] == ["Draining.", "Drained and ended."]


def test_killed_it_leaves_no_server_behind() -> None:
    with shown() as (process, lines):
        port = served_at("".join(lines))
        process.kill()
        process.wait(DEADLINE)
    assert not answers(port)

import io
from pathlib import Path

import pytest
from rich.console import Console

from offloop.demo import report
from offloop.demo.death import Death, Told
from offloop.demo.measure import Latency, Measured
from offloop.demo.report import Finding

DEATH = Death(
    killed=4194301,
    lost=[Told(502, "worker-lost", 0.0021)],
    others=[Told(200, "", -0.1), Told(200, "", 0.412), Told(503, "backend-unavailable", 0.3)],
    following=Told(200, "", 0.203),
    successor=4194302,
    ready=0.46,
)
KEYWORDS = ("event loop", "queue", "back-pressure", "deadline", "worker", "thread pool")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_a_document_has_its_pages_words_time_and_keywords(console: Console) -> None:
    report.documents(console, [Finding("guide.pdf", 60, 8196, KEYWORDS, 0.1234)])

    row = next(line for line in rows_of(printed(console)) if line.startswith("guide.pdf"))
    assert row.split()[:5] == ["guide.pdf", "60", "8,196", "123", "ms"]
    for word in " ".join(KEYWORDS).split():
        assert word in printed(console)


def test_a_refusal_is_a_row(console: Console) -> None:
    report.documents(console, [Finding("list.pdf", reason="broken-pdf", trouble="422 broken-pdf: The file is damaged")])
    assert "422 broken-pdf: The file is damaged" in " ".join(printed(console).split())


def test_a_name_is_never_read_as_markup(console: Console) -> None:
    report.documents(console, [Finding("[red]x[/]y.pdf", 1, 1, ("[bold]",), 0.1)])
    assert "[red]x[/]y.pdf" in printed(console)
    assert "[bold]" in printed(console)


def test_nothing_is_wider_than_80_columns(console: Console) -> None:
    long_name = "an-extraordinarily-long-name-of-a-file-that-somebody-made-up-in-a-hurry.pdf"
    report.opening(console, "http://127.0.0.1:65535", "process")
    report.documents(console, [Finding(long_name, 1000, 1_234_567, KEYWORDS, 12.3)])
    seconds = Latency(12.3, 45.6, 78.9)
    report.comparison(console, long_name, 48, 8, [Measured("def route (thread pool)", 48, 123.4, seconds)])
    report.reading(console, *[Measured("", 48, 1.0, seconds)] * 4)
    report.killing(console, "guide-to-queues.pdf")
    report.death(console, DEATH)
    assert max(len(line) for line in printed(console).splitlines()) <= 80
    assert "1,234,567" in printed(console)


def test_a_comparison_has_a_row_for_each_way(console: Console) -> None:
    plain = Measured("async def route", 24, 3.6, Latency(1.8, 3.54, 3.57))
    nothing = Measured("nothing else", 0, 0.0, Latency(0.0006, 0.002, 0.0031))
    report.comparison(console, "guide.pdf", 24, 8, [nothing, plain])

    rows = [" ".join(line.split()) for line in rows_of(printed(console))]
    assert "guide.pdf is read 24 times, for 8 callers at once" in rows
    assert "nothing else 0.6 ms 2.0 ms 3.1 ms - -" in rows
    assert "async def route 1.80 s 3.54 s 3.57 s 24 3.60 s" in rows


MEASURED = (
    Measured("a", 1, 1.0, Latency(1, 3.5, 4)),
    Measured("b", 1, 1.0, Latency(1, 0.2, 4)),
    Measured("c", 1, 3.0, Latency(1, 0.12, 4)),
    Measured("d", 1, 1.5, Latency(1, 0.015, 4)),
)


def test_the_sentences_say_what_was_measured(console: Console) -> None:
    report.reading(console, *MEASURED)
    text = " ".join(printed(console).split())
    assert "3.50 s or more behind the async def route, 200 ms beside the def route, 120 ms beside offloop's th" in text
    assert "and 15 ms beside its processes" in text
    assert "2.0 times as fast as threads" in text


def test_where_there_is_no_process_mode_nothing_is_said_of_it(console: Console) -> None:
    report.reading(console, *MEASURED[:3])
    assert "120 ms beside offloop's threads." in " ".join(printed(console).split())
    assert "process" not in printed(console)


def test_a_death_is_told_in_the_order_of_time() -> None:
    console = Console(file=io.StringIO(), width=100)
    report.death(console, DEATH)
    rows = [" ".join(line.split()) for line in rows_of(printed(console))]
    assert rows[2:7] == [
        "a worker, pid 4194301 killed -",
        "the caller for whom it was reading 502 worker-lost 2.1 ms",
        "a caller who came after that 200 203 ms",
        "3 other callers, to the last 200, 503 backend-unavailable 412 ms",
        "a new worker, pid 4194302 ready 460 ms",
    ]


def test_lines_to_paste_are_not_wrapped(console: Console) -> None:
    path = Path("/somewhere/with a blank/" + "deep/" * 20 + "x.pdf")
    report.suggestions(console, "http://127.0.0.1:8000", path)
    assert f"F='{path}'" in printed(console)
    assert "Ctrl-C" in printed(console)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.00062, "0.6 ms"), (0.0099, "9.9 ms"), (0.014, "14 ms"), (0.9994, "999 ms"), (1.239, "1.24 s"), (83.2, "83 s")],
)
def test_times_have_three_figures_at_most(seconds: float, shown: str) -> None:
    assert report._time(seconds) == shown

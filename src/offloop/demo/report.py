"""What the demo prints: tables and lines, readable at 80 columns, in a terminal or a file.

Owns the wording and the look. It measures nothing and decides nothing.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offloop.demo.death import Death, Told
from offloop.demo.measure import Measured

SLOW = 0.1
"""Seconds at which a person begins to notice (Miller: "Response time in man-computer conversational transactions",
1968)."""


@dataclass(frozen=True)
class Finding:
    """What became of one file: what was read, or the trouble with it and its reason. `seconds` is upload to answer."""

    name: str
    pages: int = 0
    words: int = 0
    keywords: Sequence[str] = field(default_factory=tuple)
    seconds: float = 0.0
    reason: str = ""
    trouble: str = ""


def opening(console: Console, url: str, mode: str) -> None:
    """Say what is running."""
    line = Text.assemble(("offloop demo", "bold"), f": a document service at {url}, {mode} mode")
    console.print(line, highlight=False)


def documents(console: Console, findings: Sequence[Finding]) -> None:
    """A row for each file."""
    _heading(console, "Documents", "posted to /documents and /documents/keywords")
    table = _table()
    table.add_column("file", overflow="fold", max_width=32)
    for name in ("pages", "words", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("keywords", overflow="fold", min_width=20)
    for found in findings:
        if found.trouble:
            row: list[str | Text] = [
                "-",
                "-",
                _time(found.seconds) if found.seconds else "-",
                Text(found.trouble, "red"),
            ]
        else:
            words = Text(", ".join(found.keywords), "green")
            row = [f"{found.pages}", f"{found.words:,}", _time(found.seconds), words]
        table.add_row(Text(found.name), *row)
    console.print(table)


def comparison(console: Console, document: str, uploads: int, callers: int, rows: Sequence[Measured]) -> None:
    """A row for each way, and what to read from them."""
    _heading(
        console,
        "How long GET /ping waits meanwhile",
        f"{document} is read {uploads} times, for {callers} callers at once",
    )
    table = _table()
    table.add_column("the work is done in", no_wrap=True)
    for name in ("p50", "p99", "longest", "documents", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        work = [f"{row.read}", _time(row.seconds)] if row.seconds else ["-", "-"]
        slow = "red" if row.ping.p99 > SLOW else "green"
        times = [Text(_time(value), slow) for value in (row.ping.p50, row.ping.p99, row.ping.longest)]
        table.add_row(row.label, *times, *work)
    console.print(table)


def reading(
    console: Console, plain: Measured, pooled: Measured, threads: Measured, processes: Measured | None = None
) -> None:
    """The comparison in sentences, from what was measured. `processes`: where there is process mode."""
    text = (
        f"\nOne ping in a hundred waited {_time(plain.ping.p99)} or more behind the async def route, "
        f"{_time(pooled.ping.p99)} beside the def route, {_time(threads.ping.p99)} beside offloop's threads"
    )
    if processes is None:
        text += "."
    else:
        speed = threads.seconds / processes.seconds
        text += (
            f", and {_time(processes.ping.p99)} beside its processes. Processes share no GIL with /ping, nor with each "
            f"other: they read the documents {speed:.1f} times as fast as threads."
        )
    console.print(Text(text), highlight=False)


def killing(console: Console, document: str) -> None:
    """Say what is about to happen: the server logs it, before there is more to say."""
    _heading(console, "A worker process is killed", f"SIGKILL, while it reads {document}; the server logs it")


def death(console: Console, seen: Death) -> None:
    """A row for everybody concerned, in the order of time."""
    console.print()
    table = _table()
    table.add_column("who", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("after the kill", justify="right", no_wrap=True)
    rows = [
        *((told.after, "the caller for whom it was reading", _outcome(told)) for told in seen.lost),
        (seen.following.after, "a caller who came after that", _outcome(seen.following)),
        (seen.ready, f"a new worker, pid {seen.successor}", Text("ready", "green")),
    ]
    if seen.others:
        others = sorted({(told.status, told.reason): told for told in seen.others}.values())
        outcomes = Text(", ").join(_outcome(told) for told in others)
        last = max(0.0, *(told.after for told in seen.others))
        rows.append((last, f"{len(seen.others)} other callers, to the last", outcomes))
    table.add_row(f"a worker, pid {seen.killed}", Text("killed", "red"), "-")
    for after, who, outcome in sorted(rows, key=lambda row: row[0]):
        table.add_row(who, outcome, _time(after))
    console.print(table)
    console.print(
        Text(
            "\nA crash in native code, or a shortage of memory, does the same to a worker. Where the work is done in "
            "the web process (async def, def, thread mode), it takes the server with it."
        ),
        highlight=False,
    )


def suggestions(console: Console, url: str, document: Path) -> None:
    """Lines to paste into another terminal."""
    post = 'curl -s --data-binary @"$F"'
    as_pdf = f"{post} \\\n    -H content-type:application/pdf"
    overload = f"seq 200 | xargs -P 200 -I{{}} {as_pdf} \\\n    -o /dev/null -w '%{{http_code}}\\n' $U/documents"
    lines = [
        ("where, and which file", f"U={url}\n  F={shlex.quote(str(document))}"),
        ("what it is about", f"{post} $U/documents/keywords"),
        ("its pages, as text", f"{as_pdf} $U/documents | head -c 500"),
        ("more callers than the endpoint lets in: 429 for the others", f"{overload} | sort | uniq -c"),
        ("what runs, and what waits", "curl -s $U/offloop/status"),
        ("the same as metrics", "curl -s $U/offloop/metrics | grep ^offloop"),
    ]
    console.print(Text.assemble("\n", ("Serving", "bold"), f" at {url}. In another terminal:\n"), highlight=False)
    for comment, line in lines:
        # Not wrapped, whatever the width: these are for pasting.
        console.print(Text.assemble((f"  # {comment}\n", "dim"), f"  {line}\n"), soft_wrap=True, highlight=False)
    console.print(Text(f"The API is described at {url}/docs. Ctrl-C drains and ends."), highlight=False)


def _heading(console: Console, title: str, caption: str) -> None:
    console.print(Text.assemble("\n", (title, "bold"), "\n", (caption, "dim"), "\n"), highlight=False)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _outcome(told: Told) -> Text:
    return Text(f"{told.status} {told.reason}".rstrip(), "green" if told.status == 200 else "red")


def _time(seconds: float) -> str:
    """`0.62 ms`, `14 ms`, `1.24 s`: three figures at most."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"

"""What `offloop demo` shows: documents read, and how free the event loop was meanwhile.

Owns the order of the show and its exit code. Measuring, printing and the server's life have modules of their own.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources import as_file
from pathlib import Path

from rich.console import Console

from offloop.demo import report
from offloop.demo.client import Client
from offloop.demo.hosting import Server, ServerFailed, serving
from offloop.demo.measure import CALLERS, Way, measure, quiet, worth_measuring

DOCUMENTS = resources.files("offloop.demo") / "documents"
BUNDLED = ("note-on-waiting.pdf", "saying-no-in-time.pdf", "guide-to-queues.pdf")
PORT = 8000
TRIES = 20
"""Ports to try from `PORT` on, when none is asked for."""
MEASURED = BUNDLED[-1]
"""The document whose reading is measured: the longest."""
SHOWN = 6
"""Keywords in a row."""

ASYNC = Way("async def route", "/compare/async")
DEF = Way("def route (thread pool)", "/compare/def")
OFFLOOP = "/documents/keywords"


@dataclass(frozen=True)
class Upload:
    """A file to send. `trouble`: it could not be read from disk. `refusal`: the reason it is to be refused for."""

    name: str
    data: bytes = b""
    trouble: str = ""
    refusal: str = ""


def run(files: Sequence[Path] = (), *, once: bool, port: int | None = None, console: Console | None = None) -> int:
    """Serve the document service, read some documents with it, and compare.

    Args:
        files: PDFs to read; the bundled ones where there are none.
        once: end after the tables. Otherwise it serves on until Ctrl-C or SIGTERM, which drain it.
        port: where to serve. 0 is any free port. None is any for `once`, else 8000 or the next that is free.
        console: where to print.

    Returns:
        The exit code. With `once` 0 if every document was read and the server ended cleanly, else 1. Without, 0 if it
        ran until it was told to end, and ended cleanly.
    """
    console = console or Console()
    try:
        return asyncio.run(_show(files, once, port, console))
    except ServerFailed as error:
        console.print(f"offloop demo: {error}", style="red", markup=False, highlight=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        # By now the server has drained and ended.
        console.print("Drained and ended.", highlight=False)
        return 1 if once else 0


async def _show(files: Sequence[Path], once: bool, port: int | None, console: Console) -> int:
    ports = [port] if port is not None else [0] if once else [*range(PORT, PORT + TRIES), 0]
    with _cancelled_by_sigterm():
        async with serving(ports) as server:
            if server.port != ports[0] != 0:
                console.print(f"Port {ports[0]} is taken: using {server.port}.", highlight=False)
            try:
                good = await _tables(server, _uploads(files), console)
            except* OSError as errors:
                raise ServerFailed(f"the server went away: {errors.exceptions[0]}") from None
            if once:
                return 0 if good else 1
            with as_file(DOCUMENTS / MEASURED) as bundled:
                report.suggestions(console, server.url, files[0].resolve() if files else bundled)
                try:
                    await server.wait()
                except asyncio.CancelledError:
                    console.print("\nDraining.", highlight=False)
                    raise


async def _tables(server: Server, uploads: Sequence[Upload], console: Console) -> bool:
    """Print what there is to see. Returns whether everything worked."""
    client = server.client
    status = (await client.send("GET", "/offloop/status")).json()
    report.opening(console, server.url, status["mode"])

    with console.status("Reading documents"):
        findings = [await _find(client, upload) for upload in uploads]
    report.documents(console, findings)

    document = (DOCUMENTS / MEASURED).read_bytes()
    uploads_each = await worth_measuring(client, OFFLOOP, document)
    measured = [await quiet(client)]
    for way in (ASYNC, DEF, Way(f"offloop, {status['mode']} mode", OFFLOOP)):
        with console.status(f"Measuring: {way.label}"):
            measured.append(await measure(client, way, document, uploads_each))
    report.comparison(console, MEASURED, uploads_each, CALLERS, measured)
    report.reading(console, *measured[1:])

    as_expected = all(found.reason == upload.refusal for found, upload in zip(findings, uploads, strict=True))
    return as_expected and all(way.read == uploads_each for way in measured[1:])


def _uploads(files: Sequence[Path]) -> list[Upload]:
    if files:
        return [_from_disk(path) for path in files]
    bundled = [Upload(name, (DOCUMENTS / name).read_bytes()) for name in BUNDLED]
    # What a failure looks like belongs to the show.
    return [*bundled, Upload("shopping-list.pdf", b"milk, bread, a dozen eggs", refusal="broken-pdf")]


def _from_disk(path: Path) -> Upload:
    try:
        return Upload(path.name, path.read_bytes())
    except OSError as error:
        return Upload(path.name, trouble=error.strerror or "cannot be read")


async def _find(client: Client, upload: Upload) -> report.Finding:
    """Send a file twice: for its pages, and for its keywords, which is what is timed."""
    if upload.trouble:
        return report.Finding(upload.name, reason="unreadable", trouble=upload.trouble)
    read = await client.send("POST", "/documents", upload.data, "application/pdf")
    answer = await client.send("POST", OFFLOOP, upload.data, "application/pdf") if read.status == 200 else read
    if answer.status != 200:
        problem = answer.json()
        trouble = f"{answer.status} {problem['reason']}: {problem['detail']}"
        return report.Finding(upload.name, seconds=answer.seconds, reason=problem["reason"], trouble=trouble)
    document, found = read.json(), answer.json()
    return report.Finding(
        upload.name,
        pages=len(document["pages"]),
        words=document["words"],
        keywords=[keyword["phrase"] for keyword in found["keywords"]][:SHOWN],
        seconds=answer.seconds,
    )


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the show as Ctrl-C does, which asyncio sees to. Windows has no such signal to catch."""
    loop, show = asyncio.get_running_loop(), asyncio.current_task()
    if show is None or sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop.add_signal_handler(signal.SIGTERM, show.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)

"""What `offloop demo` shows: documents read, how free the event loop was meanwhile, and a worker's death.

Owns the order of the show and its exit code. Measuring, printing and the server's life have modules of their own.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib.resources import as_file
from pathlib import Path

from rich.console import Console

from offloop.demo import report
from offloop.demo.death import kill_a_worker
from offloop.demo.hosting import Server, ServerFailed, serving
from offloop.demo.measure import CALLERS, Way, measure, quiet, worth_measuring
from offloop.demo.uploads import DOCUMENTS, KEYWORDS, LONGEST, Upload, find, uploads

PORT = 8000
TRIES = 20
"""Ports to try from `PORT` on, when none is asked for."""
MODES = ("thread", "process") if hasattr(os, "killpg") else ("thread",)
"""What is compared. Serves in the last one where `OFFLOOP_MODE` does not say otherwise."""
MEASURED = LONGEST
"""The document whose reading is measured."""

ASYNC = Way("async def route", "/compare/async")
DEF = Way("def route (thread pool)", "/compare/def")


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
        async with serving(ports, None if "OFFLOOP_MODE" in os.environ else MODES[-1]) as server:
            if server.port != ports[0] != 0:
                console.print(f"Port {ports[0]} is taken: using {server.port}.", highlight=False)
            try:
                good = await _tables(server, uploads(files), console)
            except (OSError, ExceptionGroup) as failure:
                raise _explained(failure) from None
            if once:
                return 0 if good else 1
            with as_file(DOCUMENTS / LONGEST) as bundled:
                console.print(f"\nA page to try it with: {server.url}/", highlight=False)
                report.suggestions(console, server.url, files[0].resolve() if files else bundled)
                try:
                    await server.wait()
                except asyncio.CancelledError:
                    console.print("\nDraining.", highlight=False)
                    raise


async def _tables(server: Server, sent: Sequence[Upload], console: Console) -> bool:
    """Print what there is to see. Returns whether everything worked."""
    mode = (await server.client.send("GET", "/offloop/status")).json()["mode"]
    async with AsyncExitStack() as others:
        servers = {mode: server}
        for other in MODES:
            # Now and not when its turn comes, so that what it says as it starts stands above the tables.
            if other not in servers:
                servers[other] = await others.enter_async_context(serving([0], other))
        report.opening(console, server.url, mode)
        with console.status("Reading documents"):
            findings = [await find(server.client, upload) for upload in sent]
        report.documents(console, findings)
        as_expected = all(found.reason == upload.refusal for found, upload in zip(findings, sent, strict=True))
        compared = await _compare(server, servers, console)
        survived = "process" not in servers or await _kill(servers["process"], console)
        return as_expected and compared and survived


async def _compare(server: Server, servers: Mapping[str, Server], console: Console) -> bool:
    """The same work in every way, one after another; a server whose turn it is not has nothing to do."""
    document = (DOCUMENTS / MEASURED).read_bytes()
    count = await worth_measuring(server.client, KEYWORDS, document)
    ways = [
        (server, ASYNC),
        (server, DEF),
        *((servers[mode], Way(f"offloop, {mode} mode", KEYWORDS)) for mode in MODES),
    ]
    rows = [await quiet(server.client)]
    for where, way in ways:
        with console.status(f"Measuring: {way.label}"):
            rows.append(await measure(where.client, way, document, count))
    report.comparison(console, MEASURED, count, CALLERS, rows)
    report.reading(console, *rows[1:])
    return all(row.read == count for row in rows[1:])


async def _kill(server: Server, console: Console) -> bool:
    report.killing(console, LONGEST)
    seen = await kill_a_worker(server, KEYWORDS, (DOCUMENTS / LONGEST).read_bytes())
    report.death(console, seen)
    return seen.as_promised


def _explained(failure: Exception) -> Exception:
    """What to say of it: the first of a group; that the server went away, where a connection failed."""
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return ServerFailed(f"the server went away: {failure}") if isinstance(failure, OSError) else failure


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

"""`offloop worker`: its arguments, its logging, and what a terminal is shown of its workers.

Owns how things look. How they stand, and when all of it ends, is for `orchestration/agent`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from offloop.cli.usage import import_from_here, one_line

if TYPE_CHECKING:
    from offloop.orchestration.agent import Show, State
    from offloop.orchestration.supervisor import Standing

LINE = "%(asctime)s %(levelname)s %(name)s %(processName)s: %(message)s"


def worker(
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE…", help="As given to Offloop(…).")],
    *,
    concurrency: Annotated[
        int | None, typer.Option(help="Worker processes; OFFLOOP_WORKERS, or the CPUs, by default.", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Loops in each; OFFLOOP_THREADS, or 1, by default.", min=1)
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Whose requests to take: Endpoint(pool=…).", metavar="NAME")] = None,
    health_port: Annotated[
        int | None, typer.Option(help="Answer /livez, /readyz and /metrics; 0: a free port.", min=0, max=65535)
    ] = None,
    health_host: Annotated[str, typer.Option(help="The address for that.")] = "127.0.0.1",
) -> None:
    """Run requests that web processes send over a broker, until SIGTERM or SIGINT."""
    import asyncio

    from offloop import assembly
    from offloop.errors import UsageError
    from offloop.graph.program import Program
    from offloop.settings import Settings
    from offloop.transports.redis.names import POOL

    import_from_here()
    pool = pool or POOL
    given: dict[str, Any] = {"workers": concurrency, "threads": threads}
    with one_line():
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        program = Program.load(*packages)
        console = Console(stderr=True)
        _log_to(console)
        broker = assembly.broker_of(settings)
        served = [endpoint.name for endpoint in assembly.in_pool(program, pool)]
        if not served:
            raise UsageError(f"no endpoint of {', '.join(packages)} is in the pool {pool!r}: {_pools(program)}")
        facts = {
            "takes": ", ".join(served), "of pool": pool, "from": f"{broker} ({settings.namespace})",
            "workers": str(settings.workers), "loops in each": str(settings.threads_in("cluster")),
        }  # fmt: skip
        with _shown(console, facts) as show:
            health = None if health_port is None else (health_host, health_port)
            well = asyncio.run(assembly.work(program, settings, pool, health=health, show=show))
    raise typer.Exit(0 if well else 1)


def _pools(program: Any) -> str:
    from offloop.transports.redis.names import POOL

    return "its endpoints are in " + (", ".join(sorted({e.pool or POOL for e in program.endpoints.values()})) or "none")


def _log_to(console: Console) -> None:
    """For a program that has not seen to its logs itself as it was imported."""
    handler: logging.Handler = logging.StreamHandler()
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="[%X]", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format=LINE, handlers=[handler])


@contextmanager
def _shown(console: Console, facts: dict[str, str]) -> "Iterator[Show | None]":
    """In a terminal: what runs, and below all that is logged one line that says how it goes. Else a line of the log."""
    if not console.is_terminal:
        logging.getLogger("offloop").info("starting: %s", ", ".join(f"{name} {value}" for name, value in facts.items()))
        yield None
        return
    table = Table("offloop worker", "", box=None, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)
    shown = Text("starting")
    with Live(shown, console=console, auto_refresh=False) as live:

        def show(state: "State", now: "Standing") -> None:
            nonlocal shown
            text = _line(state, now)
            if text != shown:
                shown = text
                live.update(text, refresh=True)

        yield show


def _line(state: "State", now: "Standing") -> Text:
    colour = {"starting": "yellow", "serving": "green", "draining": "yellow"}[state]
    there = now.idle + now.busy
    text = Text.assemble((state, f"bold {colour}"), f"  {there} of {there + now.absent} workers ready, {now.busy} busy")
    if not now.linked:
        text.append("  no broker", "red")
    if lost := sum(now.lost.values()):
        text.append(f"  {lost} lost", "red")
    return text

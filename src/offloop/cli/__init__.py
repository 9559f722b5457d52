"""The command line: `offloop demo`, `check`, `verify`, `worker` and `dead`.

Owns arguments, exit codes and what is printed; everything else is imported when a command needs it, so that `check`
and `verify` run without the extras. No decision about requests, and no printing anywhere else, belongs here.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from offloop.cli import dead, worker
from offloop.cli.usage import import_from_here, one_line

if TYPE_CHECKING:
    from offloop.graph.program import Program

app = typer.Typer(
    name="offloop",
    help="Blocking work behind FastAPI, in loops of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback of the user's program is theirs to read, whole and plain
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"offloop {version('offloop')}")
        raise typer.Exit


app.command()(worker.worker)
app.add_typer(dead.app, name="dead")


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Blocking work behind FastAPI, in loops of its own."""


@app.command()
def demo(
    files: Annotated[list[Path] | None, typer.Argument(help="PDF files to send; bundled ones by default.")] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show what it does, drain, and end.")] = False,
    port: Annotated[int | None, typer.Option(help="Where to serve; 0: a free port.", min=0, max=65535)] = None,
) -> None:
    """Run the bundled document service, and show what it does."""
    if missing := [name for name in ("pypdf", "uvicorn") if find_spec(name) is None]:
        typer.echo(f"the demo needs {' and '.join(missing)}: pip install 'offloop[demo]'", err=True)
        raise typer.Exit(1)
    from offloop.demo.show import run

    raise typer.Exit(run(files or [], once=once, port=port))


@app.command()
def check(packages: Annotated[list[str], typer.Argument(metavar="PACKAGE…", help="As given to Offloop(…).")]) -> None:
    """Run preflight: exit 0 with a summary, or 1 with every fault on stderr."""
    from offloop.graph.program import Program

    import_from_here()
    with one_line():
        program = Program.load(*packages)
    Console().print(_summary(program))


def _summary(program: "Program") -> Table:
    table = Table("endpoint", "request → reply", "where", "timeout", "in flight", box=None, pad_edge=False)
    for endpoint in program.endpoints.values():
        where = "\n".join(filter(None, (endpoint.http, endpoint.websocket and f"WS {endpoint.websocket}")))
        types = f"{_name(endpoint.request)} → {_name(endpoint.reply)}"
        table.add_row(endpoint.name, types, where, f"{endpoint.timeout:g} s", str(endpoint.max_in_flight))
    return table


def _name(type_: Any) -> str:
    return "None" if type_ is None else type_.__name__ if isinstance(type_, type) else str(type_)


@app.command()
def verify(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG…", help="Event logs, of one or more processes.")],
) -> None:
    """Check the promises from event logs: exit 0, 1 if one is violated, 2 if a log cannot be read."""
    from offloop.telemetry.verify import verify as verify_logs

    report = verify_logs(logs)
    for line in report.lines():
        typer.echo(line, err=report.error is not None)
    raise typer.Exit(report.exit_code)

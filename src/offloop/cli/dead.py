"""`offloop dead`: requests that killed their workers, for people to look at, send again, or drop.

Owns what is shown of them, and exit codes: 0, or 1 where a letter is not there, cannot be read or cannot be sent, or
where there is no broker; 2 for arguments that make no sense.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offloop.cli.usage import one_line

if TYPE_CHECKING:
    from offloop.transports.redis.dead import DeadLetters, Letter

app = typer.Typer(help="Requests that killed their workers: look at them, send them again, or drop them.",
                  no_args_is_help=True)  # fmt: skip

Pool = Annotated[str | None, typer.Option("--pool", help="Of which pool: Endpoint(pool=…).", metavar="NAME")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="As `list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All that are there now.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, one document.")]


@app.command("list")
def list_(*, pool: Pool = None, as_json: Json = False) -> None:
    """Show which there are, the oldest first."""
    with _letters(pool) as letters:
        if as_json:
            typer.echo(json.dumps([_brief(letter) for letter in letters.all()], indent=2))
            return
        table = Table("id", "died at", "endpoint", "attempts", "bytes", "rid", box=None, pad_edge=False)
        for letter in letters.all():
            told = _brief(letter)
            cells = (told["id"], f"{letter.died_at:%Y-%m-%d %H:%M:%S} UTC", told.get("endpoint", f"({letter.why})"),
                     told.get("attempts", ""), told.get("bytes", ""), told.get("rid", ""))  # fmt: skip
            table.add_row(*(Text(_plain(str(cell))) for cell in cells))
        _console().print(table if table.row_count else "there are no dead letters")


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    *,
    pool: Pool = None,
    as_json: Json = False,
) -> None:
    """Show one, with the beginning of its payload."""
    with _letters(pool) as letters:
        told = _whole(_one(letters, id_))
        if as_json:
            typer.echo(json.dumps(told, indent=2))
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in told.items():
            shown = ", ".join(f"{each}" for each in value) if isinstance(value, list) else str(value)
            table.add_row(name.replace("_", " "), Text(_plain(shown)))
        _console().print(table)


@app.command()
def replay(
    ids: Ids = None,
    *,
    every: All = False,
    timeout: Annotated[float, typer.Option(help="Seconds from now until it is too late to begin.", min=0.001)] = 60.0,
    pool: Pool = None,
) -> None:
    """Queue them once more, as if for the first time. Nobody waits for the reply."""
    with _letters(pool) as letters:
        _each(letters, ids, "sent again", lambda letter: letters.replay(letter, timeout), every=every)


@app.command()
def drop(ids: Ids = None, *, every: All = False, pool: Pool = None) -> None:
    """Delete them."""
    with _letters(pool) as letters:
        _each(letters, ids, "dropped", letters.drop, every=every)


@contextmanager
def _letters(pool: str | None) -> "Iterator[DeadLetters]":
    from offloop import assembly
    from offloop.settings import Settings

    with one_line():
        settings = Settings()
        address = assembly.broker_of(settings)
    from offloop.transports.redis.dead import DeadLetters
    from offloop.transports.redis.names import POOL, Names
    from offloop.transports.redis.wire import BrokerError

    try:
        letters = DeadLetters(address, Names(settings.namespace), pool or POOL, settings.signing_key)
        try:
            yield letters
        finally:
            letters.close()
    except BrokerError as fault:
        typer.echo(f"the broker cannot be asked: {fault}", err=True)
        raise typer.Exit(1) from None


def _one(letters: "DeadLetters", id_: str) -> "Letter":
    first, _, second = id_.partition("-")
    letter = letters.find(id_) if first.isdecimal() and (second or "0").isdecimal() else None
    if letter is None:
        typer.echo(f"there is no dead letter {_plain(id_)}", err=True)
        raise typer.Exit(1)
    return letter


def _each(
    letters: "DeadLetters", ids: list[str] | None, done: str, act: "Callable[[Letter], bool]", *, every: bool
) -> None:
    """Act on each that is named, and go on after one that cannot be acted on."""
    if every == bool(ids):
        raise typer.BadParameter("name letters by their ids, or say --all")
    failed, acted = False, 0
    named = letters.all() if every else iter(ids or ())
    for one in named:
        try:
            letter = _one(letters, one) if isinstance(one, str) else one
        except typer.Exit:
            failed = True
            continue
        if act(letter):
            acted += 1
        else:
            failed = True
            typer.echo(f"{letter.id} is not {done}: {letter.why or 'it is there no more'}", err=True)
    typer.echo(f"{acted} {done}")
    if failed:
        raise typer.Exit(1)


def _brief(letter: "Letter") -> dict[str, Any]:
    told: dict[str, Any] = {"id": letter.id, "died_at": letter.died_at.isoformat()}
    if letter.parcel is None:
        return told | {"unreadable": letter.why}
    envelope = letter.parcel.envelope
    return told | {
        "endpoint": envelope.endpoint, "rid": envelope.rid, "attempts": envelope.attempt,
        "bytes": len(envelope.payload),
    }  # fmt: skip


def _whole(letter: "Letter") -> dict[str, Any]:
    from offloop.transports.redis.dead import preview

    told = _brief(letter)
    if letter.parcel is None:
        return told
    envelope = letter.parcel.envelope
    return told | {
        "request_id": envelope.request_id, "form": envelope.form, "media_type": envelope.media_type or "",
        "filename": envelope.filename or "", "fields": [f"{name}={value}" for _, name, value in envelope.fields],
        "payload": preview(envelope),
    }  # fmt: skip


def _plain(text: str) -> str:
    """A caller's text, in characters that no terminal acts on."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _console() -> Console:
    """What is piped elsewhere is not broken into lines."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000, soft_wrap=True)

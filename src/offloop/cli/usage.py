"""What commands share: where packages are found, and how a fault of use is told. No command is here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from offloop.errors import StartError, UsageError


def import_from_here() -> None:
    """As uvicorn does: a command is a program of its own, and the user's packages lie where it is called."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  (sys.path wants a string)


@contextmanager
def one_line() -> Iterator[None]:
    """What is used in a way that cannot work says so on stderr, without a traceback, and ends 1."""
    try:
        yield
    except (UsageError, StartError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None

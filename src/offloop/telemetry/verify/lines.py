"""The lines of event logs, read back.

Owns what a line may look like and which files count as readable. It judges no promise.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

GAP = "gap"
"""The kind of the line by which an event log says that `lost` events are missing; 0 where it only mends a torn line."""


class Line(msgspec.Struct, kw_only=True, gc=False):
    """One event with where it was seen: `events.Event` and what an event log adds to it.

    `kind` is any word: a kind that a later version adds is passed over. `file` and `number` say where the line stands;
    without a file, `number` is the event's place in what was given.
    """

    t: float
    kind: str
    host: str = ""
    boot: str = ""
    pid: int = 0
    run: str = ""
    seq: int = 0
    rid: str = ""
    endpoint: str = ""
    attempt: int = 1
    deadline: float = 0.0
    outcome: str = ""
    started: bool | None = None
    limit: int = 0
    idempotent: bool = False
    finishes: bool = False
    begun_at: float = 0.0
    ended_at: float = 0.0
    value: float = 0.0
    size: int = 0
    worker: str = ""
    mode: str = ""
    namespace: str = ""
    queues: int = 1
    lost: int = 0
    file: str = ""
    number: int = 0

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}" if self.file else f"event {self.number}"


class Unreadable(Exception):
    """A log that cannot be read; the text says which, where and why."""


def read(path: str | Path) -> Iterator[Line]:
    """The lines of one log. Raises Unreadable.

    A line that was cut off is passed over where a writer can have left one: at the end, and before a gap line, by
    which the next writer of the same file mends it.
    """
    decode = msgspec.json.Decoder(Line).decode
    torn: tuple[int, str] | None = None
    try:
        with Path(path).open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw == b"\n":
                    continue
                try:
                    line = decode(raw)
                except (msgspec.DecodeError, UnicodeDecodeError) as fault:
                    if torn is not None or isinstance(fault, msgspec.ValidationError) or not raw.startswith(b"{"):
                        raise Unreadable(f"{path}:{number}: not a line of an event log: {fault}") from fault
                    torn = number, str(fault)
                    continue
                if torn is not None and line.kind != GAP:
                    raise Unreadable(f"{path}:{torn[0]}: not a line of an event log: {torn[1]}")
                torn = None
                line.file, line.number = str(path), number
                yield line
    except OSError as fault:
        raise Unreadable(f"{path}: cannot be read: {fault.strerror}") from fault


def given(events: Iterable[Any]) -> Iterator[Line]:
    """Events held in memory (an Event, a mapping, or anything with their attributes), in the order of their making."""
    for number, event in enumerate(events, 1):
        line = msgspec.convert(event, Line, from_attributes=not isinstance(event, Mapping))
        line.number = number
        yield line

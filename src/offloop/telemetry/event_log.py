"""The event log: every event as one line of JSON, for `offloop verify`.

Owns the file, who writes it when, and honesty about what could not be written: lines that are lost leave a
`gap` line, so that nobody takes a hole for evidence. It never judges an event, and nothing that happens to the file
may reach a request.
"""

import logging
import os
import secrets
import socket
import threading
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from offloop import errors
from offloop.clock import Clock, monotonic
from offloop.events import KINDS, Event, Kind

log = logging.getLogger("offloop")

ROOM = 2**15
"""Events that may wait to be written; some 10 MB."""
LINGER = 0.02
"""Seconds that the writer lets events gather: few writes, and few switches of threads away from the event loop."""

EXTRAS = tuple(
    "request_id limit idempotent finishes admitted_at begun_at ended_at value size worker mode namespace queues".split()
)
"""Fields that are written only where they say something."""


class EventLog:
    """An `events.Observer` of every kind. Thread-safe; costs the caller an append, unless it is to write `at_once`.

    Args:
        path: where to write; `{host}` and `{pid}` are filled in. Lines are appended, so several processes may share
            a file; with `{pid}` a process that was killed cannot tear another one's line.
        room: events that may wait; what comes on top of them is lost, and a gap line says how many.
        at_once: a line is in the file when the call returns, so that not even SIGKILL loses it: for processes whose
            beginnings nobody else sees. Costs the caller a write.

    Raises:
        SettingsError: the path cannot be written.
    """

    kinds: frozenset[Kind] = frozenset(KINDS)

    def __init__(self, path: str, *, room: int = ROOM, at_once: bool = False, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._room = room
        host, pid = socket.gethostname(), os.getpid()
        self._identity = {"host": host, "boot": boot(), "pid": pid, "run": secrets.token_hex(4)}
        self.path = path.replace("{host}", host).replace("{pid}", str(pid))
        self._file = _open(self.path)
        self._encoder = msgspec.json.Encoder()
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, Event]] = []
        self._seq = 0
        self._settled = 0
        self._lost = 0
        self._hurry = False
        self._closed = False
        self._torn = _ends_within_a_line(self.path)
        self._failed = False
        self._writer: threading.Thread | None = None
        if not at_once:
            self._writer = threading.Thread(target=self._write_all, name="offloop-event-log", daemon=True)
            self._writer.start()

    def __call__(self, event: Event, /) -> None:
        with self._changed:
            if self._closed:
                return
            self._seq += 1
            if self._writer is None:
                self._lost = self._write([(self._seq, event)], self._lost)
                self._settled = self._seq
                return
            waiting = len(self._waiting)
            if waiting >= self._room:
                self._lost += 1
                return
            self._waiting.append((self._seq, event))
            if not waiting:
                self._changed.notify_all()
            elif waiting == self._room // 2:
                self._hurry = True
                self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what was seen so far is written, or could not be. False: it took longer than `timeout` seconds."""
        with self._changed:
            target = self._seq
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is left, for at most `timeout` seconds, and end. Events that come later are passed over."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify_all()
        if self._writer is None:
            if first:
                self._lost = self._write([], self._lost)
                os.close(self._file)
            return
        self._writer.join(timeout)
        if self._writer.is_alive():
            log.error("the event log %s was still being written when its time was up", self.path)

    # ---- in the writer's thread, or at once

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._hurry or self._closed)
                if not self._closed:
                    self._changed.wait_for(lambda: self._hurry or self._closed, LINGER)
                batch, self._waiting = self._waiting, []
                lost, self._lost = self._lost, 0
                self._hurry = False
                seen, last = self._seq, self._closed
            unwritten = self._write(batch, lost)
            with self._changed:
                self._lost += unwritten
                self._settled = seen
                self._changed.notify_all()
            if last:
                os.close(self._file)
                return

    def _write(self, batch: list[tuple[int, Event]], lost: int) -> int:
        """Append one batch; returns how many events, lost ones included, the file still has to be told about."""
        lines = []
        for seq, event in batch:
            line = self._line(seq, event)
            if line is None:
                lost += 1
            else:
                lines.append(line)
        if self._torn or lost:  # first of all: a reader forgives a torn line where a gap line follows it
            lines.insert(0, (b"\n" if self._torn else b"") + self._gap(lost))
        data = b"".join(lines)
        if not data:
            return 0
        try:
            _append(self._file, data)
        except OSError as fault:
            # Part of it may be in the file: how much, only the file knows.
            self._torn = True
            if not self._failed:
                self._failed = True
                log.error("the event log %s cannot be written, and will have a gap: %s", self.path, fault.strerror)
            return lost + len(batch)
        self._torn = False
        return 0

    def _line(self, seq: int, event: Event) -> bytes | None:
        fields: dict[str, Any] = {
            "t": event.t, **self._identity, "seq": seq, "rid": event.rid, "kind": event.kind,
            "endpoint": event.endpoint, "attempt": event.attempt, "deadline": event.deadline,
            "outcome": event.outcome, "started": event.started,
        }  # fmt: skip
        for name in EXTRAS:
            if value := getattr(event, name):
                fields[name] = value
        try:
            return self._encoder.encode(fields) + b"\n"
        except UnicodeEncodeError:  # a caller's label can hold what UTF-8 cannot
            return None

    def _gap(self, lost: int) -> bytes:
        return self._encoder.encode({"t": self._clock(), **self._identity, "kind": "gap", "lost": lost}) + b"\n"


@cache
def boot() -> str:
    """Identifies this boot of this host: times are comparable where it is the same.

    Where the system does not tell, it is this process alone: too little is compared then, never too much.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"process-{uuid.uuid4()}"


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else fault
        raise errors.SettingsError(f"OFFLOOP_EVENT_LOG={path}: cannot be written: {why}") from fault


def _append(file: int, data: bytes) -> None:
    """All of it, in one write as a rule."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _ends_within_a_line(path: str) -> bool:
    """Whether whoever wrote here before was cut off."""
    try:
        with Path(path).open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is empty, or a pipe
        return False

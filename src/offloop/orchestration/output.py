"""What worker processes print and log, passed on by the web process.

Owns the read ends of their pipes and the one thread that reads them. Log handlers are not called there: one that waits
for a disk or a network would hold up every node that prints, for as long as its worker's pipe is full. The event loop
is never called from here, and may call everything here but `close`, which waits. What a line says is nobody's business:
nothing is decided by it.
"""

import contextlib
import logging
import os
import selectors
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol, TextIO

from offloop.orchestration.aside import Aside
from offloop.telemetry.forwarding import Frames, Logged, Torn, decode, record_of

log = logging.getLogger("offloop")

CHUNK = 2**16
"""Bytes of one read: between two of them every other pipe has its turn."""
LONGEST = 2**16
"""Bytes of a line; a longer one is passed on in pieces."""
LAST_READS = 16
"""Reads that a pipe is granted at its worker's end: as much as a pipe can hold, and an end to a flood."""
GRACE = 0.3
"""Seconds that the pipes of a worker that has ended may stay open: something that its nodes started may hold them."""
ROOM = 2**20
"""Bytes of one worker's log records that may wait for the handlers, and of what is said of all workers."""
BESIDES = 2**9
"""Bytes that a record takes besides what it was in the pipe, about."""
IN_ORDER_WITHIN = 0.5
"""Seconds that the news of a worker's death waits for the handlers to have had its last records."""
LAST_LINES = 40
LAST_WORDS = 2**13
"""Characters of a dead worker's last lines on stderr that are logged."""


class Output:
    """Passes on what all workers of one web process print and log. Thread-safe; one life: start, then close.

    Args:
        stdout, stderr: where lines go. None: what `sys.stdout` and `sys.stderr` are at each write.
    """

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._guard = threading.Lock()
        self._orders: list[Callable[[], None]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="offloop-output", daemon=True)
        self._records = Aside("offloop-records", ROOM, self._guarded, self._dropped)
        self._news = Aside("offloop-news", ROOM, self._guarded, self._dropped)  # not behind a handler of nodes' records
        self._selector: selectors.BaseSelector | None = None
        self._wake = -1
        self._woken = -1
        self._workers: dict[str, _Worker] = {}
        self._ended = False
        self._complained = False

    def start(self) -> None:
        self._open()
        self._thread.start()
        self._records.start()
        self._news.start()

    def add(self, name: str, index: int, pid: int, stdout: int, stderr: int, logs: int) -> None:
        """Read a worker's pipes from now on. Their read ends are owned, and closed where the pipes end."""
        kept: deque[str] = deque(maxlen=LAST_LINES)
        out = _Lines(index, lambda text: self._print(self._stdout, "stdout", text))
        err = _Lines(index, lambda text: self._print(self._stderr, "stderr", text), kept)
        records = _Records(f"worker-{index}", pid, self._records)
        worker = _Worker(name, kept, {stdout: out, stderr: err, logs: records})
        if not self._order(partial(self._add, worker)):
            for fd in worker.pipes:
                os.close(fd)

    def died(self, name: str, text: str) -> None:
        """Log `text` and, once the worker's pipes have been read, its last lines on stderr; then forget it."""
        if not self._order(partial(self._leave, name, text)):
            self._guarded(lambda: log.error("%s", text))

    def left(self, name: str) -> None:
        """The worker ended as asked: read what is left, then forget it."""
        self._order(partial(self._leave, name, None))

    def close(self, timeout: float) -> None:
        """Pass on what is there, for at most `timeout` seconds, and end. Not on the event loop: it waits."""
        with self._guard:
            first, self._closed = not self._closed, True
            if first and self._selector is None:
                self._open()
            if first:
                self._tell(self._end)
        until = monotonic() + timeout
        if self._thread.ident is not None:
            self._thread.join(timeout)
        elif first:  # never started: whatever was added is still to be closed
            self._work()
        for aside in (self._records, self._news):
            aside.join(max(0.0, until - monotonic()))

    def _order(self, order: Callable[[], None]) -> bool:
        with self._guard:
            if not self._closed:
                self._tell(order)
            return not self._closed

    def _tell(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        if len(self._orders) == 1 and self._wake >= 0:
            os.write(self._wake, b"\0")

    def _open(self) -> None:
        self._woken, self._wake = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, self._obey)

    # ---- in the thread

    def _work(self) -> None:
        selector = self._selector
        assert selector is not None
        self._take_orders()  # those given before there was a pipe to wake by
        while not self._ended:
            for key, _ in selector.select(self._patience()):
                key.data()
            now = monotonic()
            for worker in list(self._workers.values()):
                if worker.give_up is not None and (not worker.pipes or now >= worker.give_up):
                    self._forget(worker)
        for worker in list(self._workers.values()):
            self._forget(worker)
        selector.close()
        os.close(self._woken)
        os.close(self._wake)
        self._records.end()
        self._news.end()

    def _patience(self) -> float | None:
        limits = [worker.give_up for worker in self._workers.values() if worker.give_up is not None]
        return max(0.0, min(limits) - monotonic()) if limits else None

    def _obey(self) -> None:
        os.read(self._woken, 1)
        self._take_orders()

    def _take_orders(self) -> None:
        with self._guard:
            orders, self._orders = self._orders, []
        for order in orders:
            self._guarded(order)

    def _add(self, worker: "_Worker") -> None:
        assert self._selector is not None
        self._workers[worker.name] = worker
        for fd in worker.pipes:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, partial(self._read, worker, fd))

    def _leave(self, name: str, text: str | None) -> None:
        worker = self._workers.get(name)
        if worker is not None:
            worker.give_up, worker.obituary = monotonic() + GRACE, text
        elif text is not None:
            self._say(logging.ERROR, text)

    def _end(self) -> None:
        self._ended = True

    def _read(self, worker: "_Worker", fd: int) -> bool:
        """Once; False when there is nothing more for now, or for ever."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            try:
                worker.pipes[fd].feed(data)
            except Torn as torn:
                self._say(logging.WARNING, f"{worker.name}: {torn}; what it logs is lost from here on")
            else:
                return True
        self._shut(worker, fd)
        return False

    def _shut(self, worker: "_Worker", fd: int) -> None:
        assert self._selector is not None
        self._selector.unregister(fd)
        os.close(fd)
        worker.pipes.pop(fd).end()

    def _forget(self, worker: "_Worker") -> None:
        for fd in list(worker.pipes):
            for _ in range(LAST_READS):
                if not self._read(worker, fd):
                    break
        for fd in list(worker.pipes):
            self._shut(worker, fd)
        del self._workers[worker.name]
        if worker.obituary is not None:
            heard = threading.Event()
            self._records.ask("", 0, heard.set)
            self._say(logging.ERROR, f"{worker.obituary}{worker.last_words()}", heard)

    def _say(self, level: int, text: str, after: threading.Event | None = None) -> None:
        """Log something of a worker, after what it has logged itself, if that is not held up."""

        def say() -> None:
            if after is not None:
                after.wait(IN_ORDER_WITHIN)
            log.log(level, "%s", text)

        self._news.ask("all workers", len(text) + BESIDES, say)

    def _dropped(self, by: str, count: int) -> None:
        log.warning("%d log records of %s were dropped: they came faster than the handlers here took them", count, by)

    def _print(self, stream: TextIO | None, name: str, text: str) -> None:
        stream = getattr(sys, name) if stream is None else stream
        with contextlib.suppress(Exception):  # closed, full, gone, or replaced by something that raises anything
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = stream.encoding
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()

    def _guarded(self, call: Callable[[], object]) -> None:
        """The user's handlers and filters run in there; whatever they raise, every pipe is still to be read."""
        try:
            call()
        except BaseException:  # noqa: BLE001  (a handler's sys.exit() is no reason either)
            if self._complained or sys.is_finalizing():
                return
            self._complained = True
            text = f"offloop: a worker's output could not be passed on:\n{traceback.format_exc()}"
            self._print(self._stderr, "stderr", text)


class _Sink(Protocol):
    def feed(self, data: bytes, /) -> None: ...
    def end(self) -> None: ...


class _Worker:
    """A worker and those of its pipes that are open. `give_up`: when the rest of them is closed, once it has ended."""

    def __init__(self, name: str, kept: deque[str], pipes: dict[int, _Sink]) -> None:
        self.name = name
        self.pipes = pipes
        self.give_up: float | None = None
        self.obituary: str | None = None
        self._kept = kept

    def last_words(self) -> str:
        """The last lines on stderr, indented; empty where there were none."""
        room, lines = LAST_WORDS, deque[str]()
        for line in reversed(self._kept):
            if room <= 0:
                break
            lines.appendleft(f"\n    {line[-room:]}")
            room -= max(1, len(line))
        return "\n  Its last lines on stderr:" + "".join(lines) if lines else ""


class _Lines:
    """Whole lines of one stream, each with its worker's index in front. `kept` holds on to the last ones."""

    def __init__(self, index: int, write: Callable[[str], None], kept: deque[str] | None = None) -> None:
        self._prefix = f"[worker {index}] "
        self._write = write
        self._kept = kept
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, last = (self._rest + data).split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line)]
        *begun, self._rest = _pieces(last)
        self._pass_on(lines + begun)

    def end(self) -> None:
        if self._rest:
            self._pass_on([self._rest])
            self._rest = b""

    def _pass_on(self, lines: list[bytes]) -> None:
        texts = [line.decode("utf-8", "replace") for line in lines]
        if self._kept is not None:
            self._kept.extend(text[-LAST_WORDS:] for text in texts)
        if texts:  # in one write: no other thread's line gets between
            self._write("".join(f"{self._prefix}{text}\n" for text in texts))


def _pieces(line: bytes) -> list[bytes]:
    """At least one, each of at most `LONGEST` bytes; no character is cut."""
    pieces = []
    while len(line) > LONGEST:
        end = LONGEST
        while line[end] & 0xC0 == 0x80 and end > LONGEST - 3:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


class _Records:
    """Log records of one worker, handed to the web process's loggers of the same names."""

    def __init__(self, process_name: str, pid: int, handlers: Aside) -> None:
        self._process_name = process_name
        self._pid = pid
        self._handlers = handlers
        self._frames = Frames()

    def feed(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._handlers.ask(self._process_name, len(frame) + BESIDES, partial(self._hand, decode(frame)))

    def _hand(self, logged: Logged) -> None:
        record = record_of(logged, self._process_name, self._pid)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def end(self) -> None:
        """Part of a record may be left: whoever was killed in the middle of it says no more."""

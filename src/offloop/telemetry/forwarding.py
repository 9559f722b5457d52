"""Log records on their way from a worker process to the web process, whose handlers, filters and formats they meet.

Owns the handler that writes them into a pipe, their form in it, and the levels that a worker takes over. A frame is
four bytes of length, little-endian, and a `Logged` in MessagePack. Nothing here waits: a node never pays for a web
process that does not read. It formats no message, and knows no handler of the web process.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping

import msgspec

LONGEST = 2**16
"""Bytes of one text; what is longer loses its middle."""
LARGEST = 2**20
"""Bytes of one frame."""
DISABLED = 2**63
"""Set in a level: the logger itself is silent, and those below it still inherit its level."""

Simple = str | int | float | bool | None

_CUT = "\n… cut here: {} bytes in all …\n"
_LENGTH = 4
_ORDINARY = frozenset({*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"})
_formatter = logging.Formatter()


class Logged(msgspec.Struct, frozen=True, array_like=True):
    """A log record as it travels: its message made, its traceback written out, all else that it carries in `extras`."""

    name: str
    level: int
    message: str
    created: float
    pathname: str
    line: int
    function: str | None = None
    thread: int | None = None
    thread_name: str | None = None
    exception: str | None = None
    stack: str | None = None
    extras: dict[str, Simple] = {}


class Forwarder(logging.Handler):
    """Writes records into a pipe. Thread-safe; never waits; never raises into the code that logs.

    What does not go into a full pipe is dropped and counted, and the next record that goes out is preceded by one that
    tells the count. Once nobody reads any more, records are passed over in silence.

    Args:
        fd: the write end, of a pipe that nobody else writes to. Owned: `close` closes it.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        os.set_blocking(fd, False)
        self._fd = fd
        self._pid = os.getpid()
        self._encoder = msgspec.msgpack.Encoder()
        self._rest = b""
        self._dropped = 0
        self._over = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._over:
            return
        try:
            if os.getpid() != self._pid:
                # A node's fork. Two writers could tear each other's frames; lines on stderr are passed on as well.
                sys.stderr.write(f"{self.format(record)}\n")
                return
            frame = self._frame(_logged(record, self.formatter or _formatter))
        except Exception:  # noqa: BLE001  (whatever a record's arguments raise when they are written out)
            self.handleError(record)
            return
        self._send(frame)

    def flush(self) -> None:
        """Try once to write what is still owed: the rest of a record, and how many were dropped. Never waits."""
        self.acquire()
        try:
            if self._owed() and self._dropped:
                self._begin(self._notice())
        finally:
            self.release()

    def close(self) -> None:
        self.acquire()
        try:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._over = -1, True
        finally:
            self.release()
        super().close()

    # ---- under the handler's lock

    def _frame(self, logged: Logged) -> bytes:
        data = self._encoder.encode(logged)
        if len(data) > LARGEST:
            message = f"{logged.message}\n… its extra fields are left out: too large …"
            data = self._encoder.encode(msgspec.structs.replace(logged, message=message, extras={}))
        return len(data).to_bytes(_LENGTH, "little") + data

    def _notice(self) -> bytes:
        text = f"{self._dropped} log records of this worker were dropped: they came faster than they were read"
        return self._frame(Logged("offloop", logging.WARNING, text, time.time(), __file__, 0))

    def _send(self, frame: bytes) -> None:
        if not self._owed() or not self._begin(self._notice() + frame if self._dropped else frame):
            self._dropped += 1

    def _owed(self) -> bool:
        """Whether the last record is out whole, now that its rest has been tried again."""
        if self._rest:
            self._rest = self._rest[self._write(self._rest) :]
        return not self._rest and not self._over

    def _begin(self, frames: bytes) -> bool:
        """False if not a byte of it went out. Once a byte did, the rest must follow before anything else."""
        written = self._write(frames)
        if not written:
            return False
        self._dropped = 0
        self._rest = frames[written:]
        return True

    def _write(self, data: bytes) -> int:
        if os.getpid() != self._pid:  # what is owed is the parent's to write
            return 0
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:  # the web process has gone, and nobody will read any more
            self._over = True
            return 0


def _logged(record: logging.LogRecord, formatter: logging.Formatter) -> Logged:
    # Every field is made what the reader expects: it takes anything else for a torn pipe, and reads no further.
    message = _text(record.getMessage())  # first: a node's labels join the record's attributes here
    exception = record.exc_text or (formatter.formatException(record.exc_info) if record.exc_info else None)
    extras = {_text(str(key)): _simple(value) for key, value in record.__dict__.items() if key not in _ORDINARY}
    return Logged(
        name=_text(str(record.name)),
        level=int(record.levelno),
        message=message,
        created=float(record.created),
        pathname=_text(str(record.pathname)),
        line=int(record.lineno or 0),
        function=_some(record.funcName),
        thread=record.thread and int(record.thread),
        thread_name=_some(record.threadName),
        exception=_some(exception),
        stack=_some(record.stack_info),
        extras=extras,
    )


def _simple(value: object) -> Simple:
    if value is None or value is True or value is False or type(value) is float:
        return value
    if type(value) is int and -(2**63) <= value < 2**64:
        return value
    return _text(str(value))


def _some(value: object) -> str | None:
    return None if value is None else _text(str(value))


def _text(text: str) -> str:
    """What UTF-8 can hold (a file's name may be more than that), and no longer than `LONGEST`."""
    if text.isascii() and len(text) <= LONGEST:
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > LONGEST:
        # Not its end: that is where a traceback says what happened.
        head, tail = data[: LONGEST // 2], data[-LONGEST // 2 :]
        return head.decode("utf-8", "ignore") + _CUT.format(len(data)) + tail.decode("utf-8", "ignore")
    return data.decode()


# ---- levels


def levels() -> dict[str, int]:
    """This process's levels, by logger; the root's under ""; of the others, those that have one or are disabled."""
    root = logging.getLogger()
    told = {"": _level(root)}
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and _level(logger):
            told[_text(name)] = _level(logger)
    return told


def _level(logger: logging.Logger) -> int:
    return logger.level | (DISABLED if logger.disabled else 0)


def apply(levels: Mapping[str, int]) -> None:
    """Take them over. Loggers that are not named keep what they have."""
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.setLevel(level & ~DISABLED)
        logger.disabled = bool(level & DISABLED)


def install(fd: int, levels: Mapping[str, int]) -> Forwarder:
    """In a worker, before the user's program is imported: all that is logged goes into the pipe.

    The program may set levels while it is imported; to have the web process's win, `apply` them again afterwards.
    """
    forwarder = Forwarder(fd)
    logging.getLogger().addHandler(forwarder)
    apply(levels)
    return forwarder


# ---- the reading end


class Torn(ValueError):
    """What was read is no log record; nothing that follows in the same pipe can be trusted."""


class Frames:
    """Cuts what is read from one pipe into frames."""

    def __init__(self) -> None:
        self._read = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole by now, without their lengths. Raises Torn when one claims to be too large."""
        self._read += data
        start = 0
        while len(self._read) - start >= _LENGTH:
            end = start + _LENGTH + int.from_bytes(self._read[start : start + _LENGTH], "little")
            if end - start - _LENGTH > LARGEST:
                raise Torn(f"a log record of {end - start - _LENGTH} bytes")
            if len(self._read) < end:
                break
            yield bytes(self._read[start + _LENGTH : end])
            start = end
        del self._read[:start]


_decoder = msgspec.msgpack.Decoder(Logged)


def decode(frame: bytes) -> Logged:
    """Raises Torn. Nothing of the user's is called."""
    try:
        return _decoder.decode(frame)
    except msgspec.DecodeError as fault:
        raise Torn(f"a log record that cannot be read: {fault}") from fault


def record_of(logged: Logged, process_name: str, pid: int) -> logging.LogRecord:
    """The record as the worker's own handlers would have seen it, its message already made."""
    record = logging.makeLogRecord({})
    filename = os.path.basename(logged.pathname)  # noqa: PTH119 - as logging takes it apart, whatever it is
    record.__dict__.update(
        logged.extras,
        name=logged.name,
        msg=logged.message,
        args=(),
        levelno=logged.level,
        levelname=logging.getLevelName(logged.level),
        pathname=logged.pathname,
        filename=filename,
        module=os.path.splitext(filename)[0],  # noqa: PTH122 - as above
        lineno=logged.line,
        funcName=logged.function,
        relativeCreated=record.relativeCreated + (logged.created - record.created) * 1000,
        created=logged.created,
        msecs=float(int(logged.created % 1 * 1000)),
        thread=logged.thread,
        threadName=logged.thread_name,
        process=pid,
        processName=process_name,
        exc_text=logged.exception,
        stack_info=logged.stack,
    )
    return record

"""Log records leave a worker through a pipe: whole, labelled, counted where they were dropped, and never waited for."""

import enum
import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from offloop.context import running
from offloop.messages import Envelope
from offloop.telemetry import forwarding, logs
from offloop.telemetry.forwarding import DISABLED, LARGEST, LONGEST, Forwarder, Frames, Logged, decode, record_of
from offloop.testing.conformance.web_side import in_threads

SMALL_PIPE = 4096


class Pipe:
    """A pipe with a forwarder at its write end and a logger of its own in front."""

    def __init__(self) -> None:
        self.fd, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
        os.set_blocking(self.fd, False)
        self.write = write
        self.forwarder = Forwarder(write)
        self.log = logging.Logger("a.users.node")  # noqa: LOG001 - nobody else's handlers are in its way
        self.log.addHandler(self.forwarder)
        self.frames = Frames()

    def read(self) -> list[logging.LogRecord]:
        """All records that are whole by now."""
        data = b""
        try:
            while more := os.read(self.fd, 2**16):
                data += more
        except BlockingIOError:
            pass
        return [record_of(decode(frame), "worker-3", 4711) for frame in self.frames.feed(data)]

    def drain(self) -> list[logging.LogRecord]:
        """All records, those that are still owed included."""
        records = self.read()
        while self.forwarder._rest or self.forwarder._dropped:
            self.forwarder.flush()
            records += self.read()
        return records

    def fill(self) -> int:
        """Log until no more fits; how many records went in."""
        sent = 0
        while not self.forwarder._dropped:
            self.log.info("%0100d", sent)
            sent += 1
        return sent - 1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.forwarder.close()
    os.close(pipe.fd)


def seen(pipe: Pipe, attribute: str = "", value: str = "") -> list[logging.LogRecord]:
    """The records as they are logged, in the worker; each given an attribute on the way."""
    records: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> bool:
        if attribute:
            setattr(record, attribute, value)
        records.append(record)
        return True

    pipe.log.addFilter(note)
    return records


def messages(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


DROPPED = "{} log records of this worker were dropped: they came faster than they were read"


def test_a_record_arrives_as_it_was_logged(pipe: Pipe) -> None:
    here = seen(pipe)
    pipe.log.warning("%d pages of %s", 3, "a.pdf")
    (there,) = pipe.read()
    assert there.getMessage() == "3 pages of a.pdf"
    same = "name levelno levelname pathname filename module lineno funcName created msecs thread threadName exc_info"
    for name in same.split():
        assert getattr(there, name) == getattr(here[0], name), name
    assert there.relativeCreated == pytest.approx(here[0].relativeCreated, abs=0.01)
    assert (there.processName, there.process) == ("worker-3", 4711)


def test_what_a_percent_sign_says_is_not_read_twice(pipe: Pipe) -> None:
    pipe.log.warning("%s", "100 %d")
    assert messages(pipe.read()) == ["100 %d"]


def test_an_exception_and_a_stack_are_written_out(pipe: Pipe) -> None:
    try:
        raise ValueError("no such page")
    except ValueError:
        pipe.log.exception("failed", stack_info=True)
    (record,) = pipe.drain()
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("failed\nTraceback (most recent call last):\n")
    assert "ValueError: no such page\nStack (most recent call last):\n" in text


def test_an_exception_that_another_handler_has_written_out_is_taken_as_it_is(pipe: Pipe) -> None:
    seen(pipe, "exc_text", "in short")
    pipe.log.warning("failed", exc_info=ValueError())
    assert pipe.read()[0].exc_text == "in short"


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("given", "arrived"),
    [
        ("text", "text"), (1.5, 1.5), (7, 7), (True, True), (False, False), (None, None), (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (2**64, str(2**64)), ([1, "a"], "[1, 'a']"), (b"x", "b'x'"), (Colour.RED, "1"), ("\udcff", "\\udcff"),
    ],
)  # fmt: skip
def test_extra_fields_arrive_simple_ones_as_they_are_others_as_text(pipe: Pipe, given: Any, arrived: Any) -> None:
    pipe.log.warning("so", extra={"colour": given})
    (record,) = pipe.read()
    assert record.colour == arrived  # type: ignore[attr-defined]
    assert type(record.colour) is type(arrived)  # type: ignore[attr-defined]


def test_odd_names_and_texts_do_not_stop_the_pipe(pipe: Pipe) -> None:
    pipe.log.warning("\udcff", extra={7: "seven"})  # type: ignore[dict-item]
    odd = logging.makeLogRecord({"name": 5, "msg": 6, "levelno": 30, "lineno": None, "funcName": 7, "threadName": None})
    pipe.forwarder.handle(odd)
    first, second = pipe.read()
    assert first.getMessage() == "\\udcff"
    assert first.__dict__["7"] == "seven"
    assert (second.name, second.getMessage(), second.lineno, second.funcName) == ("5", "6", 0, "7")


def test_a_record_of_a_node_brings_its_labels_and_what_the_node_gave_itself(pipe: Pipe) -> None:
    trace = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("baggage", "tenant=7"))
    envelope = Envelope(rid="r-1", endpoint="read", payload=b"", deadline=9.0, request_id="mine", trace=trace)
    logs.install()
    token = running.set(envelope)
    try:
        pipe.log.warning("so", extra={"endpoint": "its own"})
    finally:
        running.reset(token)
        logs.uninstall()
    (record,) = pipe.read()
    labels = {
        "rid": "r-1",
        "request_id": "mine",
        "endpoint": "its own",
        "traceparent": "00-1-2-01",
        "baggage": "tenant=7",
    }
    assert {name: record.__dict__.get(name) for name in labels} == labels
    assert set(record.__dict__) - set(logging.makeLogRecord({}).__dict__) == set(labels)


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("call", [("%d", "x"), ("%s", Unwritable())])
def test_a_message_that_cannot_be_made_is_told_as_logging_tells_it(
    pipe: Pipe, call: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.log.warning(*call)
    assert "--- Logging error ---" in capsys.readouterr().err
    pipe.log.warning("so", extra={"field": Unwritable()})
    assert "no text" in capsys.readouterr().err
    pipe.log.warning("next")
    assert messages(pipe.read()) == ["next"]


# ---- a pipe that takes no more


def test_a_full_pipe_drops_and_the_next_record_is_preceded_by_the_count(pipe: Pipe) -> None:
    sent = pipe.fill()
    pipe.log.info("dropped too")
    assert messages(pipe.read()) == [f"{number:0100d}" for number in range(sent)]
    pipe.log.info("next")
    pipe.log.info("after")
    told, *rest = pipe.read()
    assert (told.name, told.levelno, told.getMessage()) == ("offloop", logging.WARNING, DROPPED.format(2))
    assert messages(rest) == ["next", "after"]


def test_of_a_record_that_went_out_in_part_the_rest_goes_first(pipe: Pipe) -> None:
    long = "x" * 3 * SMALL_PIPE
    for _ in range(
        3
    ):  # the pipe's size of the first one; with each that is dropped as much again, but for its last bytes
        pipe.log.info(long)
        assert pipe.read() == []
    pipe.log.info("next")
    assert messages(pipe.read()) == [long, DROPPED.format(2), "next"]


def test_records_of_any_size_arrive_whole_or_are_counted(pipe: Pipe) -> None:
    got: list[logging.LogRecord] = []
    sizes = [1, 5000, 100, 20000, 3, 4096, 4000, 60000, 10, 9000] * 5
    for number, size in enumerate(sizes):
        pipe.log.info("%d %s", number, "y" * size)
        got += pipe.read()
    got += pipe.drain()
    arrived = [record for record in got if record.name != "offloop"]
    assert all(
        record.getMessage() in {f"{number} {'y' * size}" for number, size in enumerate(sizes)} for record in arrived
    )
    assert len(arrived) + dropped(got) == len(sizes)
    assert dropped(got) > 0


def dropped(records: list[logging.LogRecord]) -> int:
    return sum(int(record.getMessage().split()[0]) for record in records if record.name == "offloop")


def test_flush_pays_what_is_owed_without_another_record(pipe: Pipe) -> None:
    long = "x" * (SMALL_PIPE + 100)
    pipe.log.info(long)
    pipe.log.info("dropped")
    pipe.forwarder.flush()  # still full: it does not wait
    assert pipe.read() == []
    pipe.forwarder.flush()
    assert messages(pipe.read()) == [long, DROPPED.format(1)]
    pipe.forwarder.flush()
    assert pipe.read() == []


def test_threads_that_log_at_once_tear_nothing(pipe: Pipe) -> None:
    each, threads = 300, 4
    over = threading.Event()
    got: list[logging.LogRecord] = []

    def write(thread: int) -> None:
        for number in range(each):
            pipe.log.info("%d %d %s", thread, number, "z" * (number * 7 % 5000))

    def writers() -> None:
        try:
            in_threads(*(lambda thread=thread: write(thread) for thread in range(threads)))
        finally:
            over.set()

    def read() -> None:
        while not over.is_set():
            got.extend(pipe.read())

    in_threads(writers, read)
    got += pipe.drain()
    arrived = [record.getMessage().split(" ") for record in got if record.name != "offloop"]
    assert all(text == "z" * (int(number) * 7 % 5000) for _, number, text in arrived)
    for thread in range(threads):
        numbers = [int(number) for mine, number, _ in arrived if int(mine) == thread]
        assert numbers == sorted(set(numbers))
    assert len(arrived) + dropped(got) == each * threads


def test_once_nobody_reads_records_are_passed_over_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = Pipe()
    pipe.log.info("x" * 3 * SMALL_PIPE)  # something is owed
    os.close(pipe.fd)
    pipe.log.info("so")
    pipe.log.info("%d", "not even looked at")
    pipe.forwarder.flush()
    pipe.forwarder.close()
    assert capsys.readouterr() == ("", "")


def test_a_closed_forwarder_has_closed_its_pipe_and_takes_nothing(pipe: Pipe) -> None:
    pipe.log.info("before")
    pipe.forwarder.close()
    pipe.forwarder.close()
    pipe.log.info("after")
    assert messages(pipe.read()) == ["before"]
    assert os.read(pipe.fd, 1) == b""


# ---- sizes


@pytest.mark.parametrize("character", ["x", "ü", "😀"])
def test_a_long_text_loses_its_middle_and_says_so(character: str) -> None:
    text = forwarding._text("head" + character * LONGEST * 2 + "tail")
    size = len(character.encode()) * LONGEST * 2 + 8
    assert text.startswith("head" + character)
    assert text.endswith(character + "tail")
    assert f"… cut here: {size} bytes in all …" in text
    assert LONGEST - 8 < len(text.encode()) <= LONGEST + 100
    assert "\ufffd" not in text


def test_a_text_of_just_the_longest_size_is_left_whole() -> None:
    for text in ("x" * LONGEST, "ü" * (LONGEST // 2)):
        assert forwarding._text(text) == text


def test_more_extra_fields_than_a_frame_may_hold_are_left_out() -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "so", (), None)
    record.__dict__.update({f"field{number}": "x" * LONGEST for number in range(20)})
    read, write = os.pipe()
    try:
        forwarder = Forwarder(write)
        frame = forwarder._frame(forwarding._logged(record, logging.Formatter()))
        forwarder.close()
    finally:
        os.close(read)
    (body,) = Frames().feed(frame)
    logged = decode(body)
    assert logged.message == "so\n… its extra fields are left out: too large …"
    assert logged.extras == {}


# ---- the reading end


def body(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(Logged(**{
        "name": "n", "level": 20, "message": "so", "created": 1.0, "pathname": "f", "line": 1, **fields,
    }))  # fmt: skip


@pytest.mark.parametrize("torn", [b"", body()[:-1], body() + b"\0", b"\xc1", body(message=3), body(extras={"a": [1]})])
def test_what_is_no_record_is_refused(torn: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        decode(torn)


def test_frames_come_out_whole_however_they_are_read() -> None:
    bodies = [b"a", b"", b"b" * 300, b"c" * 70000]
    data = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    for step in (1, 3, 4, 5, 1000, len(data)):
        frames = Frames()
        got = [frame for at in range(0, len(data), step) for frame in frames.feed(data[at : at + step])]
        assert got == bodies


def test_a_frame_that_is_too_large_is_refused_after_those_before_it() -> None:
    data = b"\x01\0\0\0a" + LARGEST.to_bytes(4, "little")
    frames = Frames()
    assert list(frames.feed(data)) == [b"a"]  # of just the largest size: waited for
    got: list[bytes] = []
    with pytest.raises(ValueError, match=f"a log record of {LARGEST + 1} bytes"):
        got.extend(Frames().feed(b"\x01\0\0\0a" + (LARGEST + 1).to_bytes(4, "little")))
    assert got == [b"a"]


def test_the_web_processes_own_record_factory_has_its_part() -> None:
    before = logging.getLogRecordFactory()

    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.hostname = "web-1"
        return record

    logging.setLogRecordFactory(theirs)
    try:
        record = record_of(decode(body()), "w", 1)
    finally:
        logging.setLogRecordFactory(before)
    assert record.hostname == "web-1"  # type: ignore[attr-defined]


# ---- a worker


@pytest.fixture
def loggers() -> Iterator[None]:
    """Levels, handlers and loggers as they were."""
    root = logging.getLogger()
    before, level, handlers = dict(root.manager.loggerDict), root.level, list(root.handlers)
    levels = {
        logger: (logger.level, logger.disabled) for logger in before.values() if isinstance(logger, logging.Logger)
    }
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name in set(root.manager.loggerDict) - set(before):
        del root.manager.loggerDict[name]
    for logger, (level, disabled) in levels.items():
        logger.setLevel(level)
        logger.disabled = disabled


@pytest.mark.usefixtures("loggers")
def test_levels_are_those_of_the_root_and_of_loggers_that_have_their_own() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("fwd.own").setLevel(5)
    logging.getLogger("fwd.inherits")
    logging.getLogger("fwd.silent").disabled = True
    told = forwarding.levels()
    assert told[""] == logging.ERROR
    assert {name: level for name, level in told.items() if name.startswith("fwd")} == {
        "fwd.own": 5,
        "fwd.silent": DISABLED,
    }
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told)) == told


@pytest.mark.usefixtures("loggers")
def test_a_logger_whose_name_is_no_text_can_be_told_of() -> None:
    logging.getLogger("caf\udce9").setLevel(logging.ERROR)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(forwarding.levels()))["caf\\udce9"] == logging.ERROR


@pytest.mark.usefixtures("loggers")
def test_levels_that_are_applied_are_those_that_were_told() -> None:
    told = {"": logging.ERROR, "fwd.own": 5, "fwd.silent": logging.DEBUG | DISABLED, "fwd.quiet": sys.maxsize}
    forwarding.apply(told)
    for name, level in told.items():
        assert forwarding.levels()[name] == level
    assert not logging.getLogger("fwd.silent").isEnabledFor(logging.CRITICAL)
    assert logging.getLogger("fwd.silent.child").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("fwd.other").isEnabledFor(logging.WARNING)
    forwarding.apply({"fwd.silent": logging.INFO})
    assert logging.getLogger("fwd.silent").isEnabledFor(logging.INFO)


@pytest.mark.usefixtures("loggers")
def test_an_installed_forwarder_is_the_roots_handler(pipe: Pipe) -> None:
    root = logging.getLogger()
    root.handlers[:] = []
    pipe.forwarder.close()
    read, write = os.pipe()
    pipe.fd, old = read, pipe.fd
    os.close(old)
    os.set_blocking(read, False)
    pipe.forwarder = forwarding.install(write, {"": logging.INFO, "fwd.chatty": logging.DEBUG})
    assert root.handlers == [pipe.forwarder]
    assert not os.get_blocking(write)
    logging.getLogger("fwd.chatty").debug("heard")
    logging.getLogger("fwd.other").debug("not heard")
    logging.getLogger("fwd.other").info("heard too")
    assert [(record.name, record.getMessage()) for record in pipe.read()] == [
        ("fwd.chatty", "heard"),
        ("fwd.other", "heard too"),
    ]


FORKS = """
import logging, os, sys
from offloop.telemetry import forwarding
forwarding.install(int(sys.argv[1]), {"": logging.INFO})
log = logging.getLogger("n")
log.info("x" * 65_600)  # more than the pipe takes: a rest is owed
child = os.fork()
if child == 0:
    os.read(0, 1)  # until there is room in the pipe
    log.info("from the child")
    logging.shutdown()
    os._exit(0)
print("forked", flush=True)
os.waitpid(child, 0)
logging.shutdown()
"""


def test_a_nodes_fork_writes_to_stderr_and_leaves_the_pipe_alone() -> None:
    read, write = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-c", FORKS, str(write)], pass_fds=[write], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "forked\n"
        data = os.read(read, 2**20)
        _, err = worker.communicate("\n", timeout=30)
        while more := os.read(read, 2**20):
            data += more
    finally:
        worker.kill()
        worker.communicate()
        os.close(read)
    frames = Frames()
    (record,) = (record_of(decode(frame), "w", 1) for frame in frames.feed(data))
    assert record.getMessage().startswith("xxx")
    assert not frames._read
    assert err == "from the child\n"

"""What workers print and log comes out on the web side: whole lines, the right loggers, the last words of the dead."""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offloop.orchestration import output as module
from offloop.orchestration.output import LAST_LINES, LAST_WORDS, LONGEST, ROOM, Output
from offloop.telemetry.forwarding import LARGEST, Forwarder, Logged
from offloop.testing.conformance.web_side import DEADLINE, eventually, in_threads


class Screen(io.StringIO):
    """Stands for a terminal; lets a test wait for what appears on it, or hold up whoever writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self._came = threading.Condition()

    def write(self, text: str, /) -> int:
        self.entered.set()
        assert self.go.wait(DEADLINE)
        with self._came:
            self.writes.append(text)
            self._came.notify_all()
        return len(text)

    @property
    def text(self) -> str:
        return "".join(self.writes)

    def until(self, text: str) -> str:
        with self._came:
            assert self._came.wait_for(lambda: text in self.text, DEADLINE), f"{text!r} is not in {self.text[-500:]!r}"
            return self.text


class Heard(logging.Handler):
    """All records that reach the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._came:
            self.records.append(record)
            self._came.notify_all()

    def until(self, text: str) -> logging.LogRecord:
        with self._came:
            assert self._came.wait_for(lambda: any(text in found.getMessage() for found in self.records), DEADLINE), (
                text
            )
            return next(found for found in self.records if text in found.getMessage())

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Worker:
    """The write ends that a worker would have."""

    def __init__(self, output: Output, index: int = 0) -> None:
        self.name = f"worker-{index}:{4711 + index}"
        pipes = [os.pipe() for _ in range(3)]
        self.reads = [read for read, _ in pipes]
        self.out, self.err, self.logs = (os.fdopen(write, "wb", 0) for _, write in pipes)
        output.add(self.name, index, 4711 + index, *self.reads)

    def end(self) -> None:
        """As its death does."""
        for pipe in (self.out, self.err, self.logs):
            pipe.close()


class Rig:
    def __init__(self) -> None:
        self.out, self.err = Screen(), Screen()
        self.output = Output(self.out, self.err)
        self.workers: list[Worker] = []

    def worker(self) -> Worker:
        self.workers.append(Worker(self.output, len(self.workers)))
        return self.workers[-1]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = open_files()
    rig = Rig()
    yield rig
    rig.output.close(DEADLINE)
    for thread in (rig.output._thread, rig.output._records._thread, rig.output._news._thread):
        assert not thread.is_alive()
    for worker in rig.workers:
        worker.end()
    assert open_files() <= before  # fewer where something of an earlier test was collected meanwhile


@pytest.fixture
def started(rig: Rig) -> Rig:
    rig.output.start()
    return rig


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(), logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


# ---- lines


def test_lines_come_out_with_their_workers_index_in_front(started: Rig) -> None:
    first, second = started.worker(), started.worker()
    first.out.write(b"one\ntwo\n")
    assert started.out.until("two\n") == "[worker 0] one\n[worker 0] two\n"
    second.err.write(b"oh\n\n")
    assert started.err.until("oh\n") == "[worker 1] oh\n[worker 1] \n"
    assert started.out.text == "[worker 0] one\n[worker 0] two\n"


def test_part_of_a_line_waits_for_its_end_and_lets_other_workers_pass(started: Rig) -> None:
    first, second = started.worker(), started.worker()
    first.out.write(b"whole\nbeg")
    started.out.until("whole\n")
    second.out.write(b"other\n")
    assert started.out.until("other\n") == "[worker 0] whole\n[worker 1] other\n"
    first.out.write(b"un\n")
    assert started.out.until("begun\n") == "[worker 0] whole\n[worker 1] other\n[worker 0] begun\n"


def test_a_last_line_without_an_end_comes_out_when_its_pipe_ends(started: Rig) -> None:
    worker = started.worker()
    worker.out.write(b"one\ntwo")
    worker.out.close()
    assert started.out.until("two\n") == "[worker 0] one\n[worker 0] two\n"


def test_bytes_that_are_no_text_come_out_replaced(started: Rig) -> None:
    started.worker().out.write(b"caf\xe9 \xe2\x82\xac\n")
    assert started.out.until("\n") == "[worker 0] caf\ufffd €\n"


@pytest.mark.parametrize("text", ["x" * (2 * LONGEST + 5), "ü" * LONGEST, "x" + "€" * LONGEST, "xx😀" * LONGEST])
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_very_long_line_comes_out_in_pieces_and_no_character_is_cut(started: Rig, text: str, end: str) -> None:
    worker = started.worker()
    worker.out.write((text + end).encode())
    worker.out.write(b"" if end else b"\n")
    worker.out.write(b"next\n")
    *pieces, last = started.out.until("next\n").splitlines()
    assert last == "[worker 0] next"
    said = [piece.removeprefix("[worker 0] ") for piece in pieces]
    assert "".join(said) == text
    assert all(LONGEST - 3 <= len(piece.encode()) <= LONGEST for piece in said[:-1])


def test_a_long_run_of_bytes_that_are_no_text_is_cut_all_the_same() -> None:
    pieces = module._pieces(b"\x80" * 3 * LONGEST)
    assert b"".join(pieces) == b"\x80" * 3 * LONGEST
    assert all(0 < len(piece) <= LONGEST for piece in pieces)


def test_lines_of_many_workers_are_never_mixed(started: Rig) -> None:
    workers = [started.worker() for _ in range(4)]

    def write(index: int) -> Callable[[], None]:
        def lines() -> None:
            for number in range(300):
                line = f"{index} {number} {'y' * (number % 90)} end\n".encode()
                workers[index].out.write(line[:7])
                workers[index].out.write(line[7:])
            workers[index].out.close()

        return lines

    in_threads(*(write(index) for index in range(4)))
    started.output.close(DEADLINE)
    lines = started.out.text.splitlines()
    for index in range(4):
        mine = [line for line in lines if line.startswith(f"[worker {index}]")]
        assert mine == [f"[worker {index}] {index} {number} {'y' * (number % 90)} end" for number in range(300)]
    assert len(lines) == 1200


def test_standard_streams_are_looked_up_at_each_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.output._stdout = rig.output._stderr = None
    first, second, errors = Screen(), Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", first)
    monkeypatch.setattr(sys, "stderr", errors)
    rig.output.start()
    worker = rig.worker()
    worker.out.write(b"one\n")
    first.until("one\n")
    monkeypatch.setattr(sys, "stdout", second)
    worker.out.write(b"two\n")
    assert second.until("two\n") == "[worker 0] two\n"
    assert first.text == "[worker 0] one\n"
    worker.err.write(b"oh\n")
    errors.until("[worker 0] oh\n")
    monkeypatch.setattr(sys, "stdout", None)
    worker.out.write(b"lost\n")
    worker.err.write(b"told\n")
    errors.until("told\n")


class Broken(Screen):
    def write(self, text: str, /) -> int:
        super().write(text)
        raise BrokenPipeError


@pytest.mark.parametrize("closed", [True, False])
def test_a_stream_that_takes_nothing_any_more_stops_nothing(rig: Rig, closed: bool) -> None:
    rig.output._stdout = broken = Broken()
    if closed:
        rig.output._stdout = io.StringIO()
        rig.output._stdout.close()
    rig.output.start()
    worker = rig.worker()
    worker.out.write(b"lost\n")
    if not closed:
        broken.until("lost\n")
    worker.err.write(b"told\n")
    rig.err.until("told\n")
    worker.out.close()
    eventually(lambda: len(rig.output._workers[worker.name].pipes) == 2, "the pipe is read to its end")


def test_what_a_streams_encoding_cannot_hold_is_escaped(rig: Rig) -> None:
    raw = io.BytesIO()
    rig.output._stdout = io.TextIOWrapper(raw, encoding="ascii")
    worker = rig.worker()
    worker.out.write("5 €\n".encode())
    rig.output.close(DEADLINE)
    assert raw.getvalue() == b"[worker 0] 5 \\u20ac\n"


# ---- log records


def forwarder(worker: Worker) -> tuple[Forwarder, Callable[..., None]]:
    """A worker's forwarder, and a way to log by it."""
    handler = Forwarder(os.dup(worker.logs.fileno()))

    def log(name: str, level: int, message: str, *args: Any, **extra: Any) -> None:
        logger = logging.Logger(name)  # noqa: LOG001 - the worker's, of another process
        logger.addHandler(handler)
        logger.log(level, message, *args, extra=extra)

    return handler, log


@pytest.fixture
def worker_log(started: Rig) -> Iterator[Callable[..., None]]:
    handler, log = forwarder(started.worker())
    yield log
    handler.close()


def test_a_record_reaches_the_web_processes_logger_of_its_name(worker_log: Callable[..., None], heard: Heard) -> None:
    worker_log("a.users.node", logging.WARNING, "%d pages", 3, rid="r-1")
    record = heard.until("3 pages")
    assert (record.name, record.levelname, record.processName, record.process) == (
        "a.users.node", "WARNING", "worker-0", 4711,
    )  # fmt: skip
    assert record.rid == "r-1"  # type: ignore[attr-defined]


def test_levels_of_the_web_process_decide_what_is_heard(worker_log: Callable[..., None], heard: Heard) -> None:
    quiet, silent = logging.getLogger("out.quiet"), logging.getLogger("out.silent")
    quiet.setLevel(logging.ERROR)
    silent.disabled = True
    try:
        worker_log("out.quiet", logging.WARNING, "not heard")
        worker_log("out.silent", logging.CRITICAL, "not heard")
        worker_log("out.quiet", logging.ERROR, "heard")
        heard.until("heard")
    finally:
        quiet.setLevel(logging.NOTSET)
        silent.disabled = False
    assert heard.messages == ["heard"]


@pytest.mark.parametrize("failure", [RuntimeError("a filter's"), SystemExit(3)])
def test_a_filter_that_raises_is_told_once_and_stops_nothing(
    started: Rig, worker_log: Callable[..., None], heard: Heard, failure: BaseException
) -> None:
    def fails(record: logging.LogRecord) -> bool:
        raise failure

    logger = logging.getLogger("out.failing")
    logger.addFilter(fails)
    try:
        worker_log("out.failing", logging.ERROR, "one")
        worker_log("out.failing", logging.ERROR, "two")
        worker_log("out.other", logging.ERROR, "three")
        heard.until("three")
    finally:
        logger.removeFilter(fails)
    assert heard.messages == ["three"]
    assert started.err.text.startswith("offloop: a worker's output could not be passed on:\nTraceback")
    assert started.err.text.count("Traceback") == 1
    assert repr(failure).partition("(")[0] in started.err.text


def test_a_record_factory_that_raises_stops_nothing(
    started: Rig, worker_log: Callable[..., None], heard: Heard
) -> None:
    before = logging.getLogRecordFactory()

    def fails(name: object, *args: Any, **kwargs: Any) -> logging.LogRecord:
        if name is None:
            raise ValueError("no name")
        return before(name, *args, **kwargs)

    logging.setLogRecordFactory(fails)
    try:
        worker_log("out.a", logging.ERROR, "one")
        started.err.until("ValueError: no name")
    finally:
        logging.setLogRecordFactory(before)
    worker_log("out.a", logging.ERROR, "two")
    heard.until("two")
    assert heard.messages == ["two"]


class Stuck(logging.Handler):
    """Takes its records when it is let, as one does whose disk or network does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go = threading.Event()
        self.took: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.go.wait(DEADLINE)
        self.took.append(record.getMessage())


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """The handler of `out.stuck`, whose records reach no other."""
    handler, logger = Stuck(), logging.getLogger("out.stuck")
    logger.addHandler(handler)
    logger.propagate = False
    yield handler
    handler.go.set()
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_handler_that_blocks_holds_up_no_line_and_no_news(
    started: Rig, worker_log: Callable[..., None], stuck: Stuck, heard: Heard
) -> None:
    worker_log("out.stuck", logging.ERROR, "one")
    assert stuck.entered.wait(DEADLINE)
    (worker,) = started.workers
    in_threads(lambda: worker.out.write(b"y" * 100 + b"\n" * 2**18))  # more than its pipe holds
    worker.err.write(b"last words\n")
    started.output.died(worker.name, "killed")
    assert heard.until("killed").getMessage().endswith("\n    last words")
    assert stuck.took == []


def framed(logger: str, message: str) -> bytes:
    """A log record as it is in the pipe."""
    data = msgspec.msgpack.encode(Logged(logger, logging.ERROR, message, 0.0, "", 0))
    return len(data).to_bytes(4, "little") + data


def test_what_handlers_do_not_take_in_time_is_dropped_and_counted_for_each_worker(
    started: Rig, stuck: Stuck, heard: Heard
) -> None:
    loud, quiet = started.worker(), started.worker()
    loud.logs.write(framed("out.stuck", "first"))
    assert stuck.entered.wait(DEADLINE)
    in_threads(lambda: loud.logs.write(framed("out.stuck", "y" * 2**15) * 100))
    loud.logs.close()
    eventually(lambda: len(started.output._workers[loud.name].pipes) == 2, "all of them have been read")
    quiet.logs.write(framed("out.other", "mine"))
    quiet.logs.close()
    eventually(lambda: len(started.output._workers[quiet.name].pipes) == 2, "that one, too")
    stuck.go.set()
    assert heard.until("mine").getMessage() == "mine"
    warning = heard.until("of worker-0 were dropped: they came faster than the handlers here took them")
    dropped = int(warning.getMessage().split()[0])
    assert (warning.name, warning.levelno) == ("offloop", logging.WARNING)
    assert len(stuck.took) + dropped == 101
    assert (len(stuck.took) - 1) * 2**15 <= ROOM
    assert len(heard.records) == 2


def test_a_death_is_told_after_the_records_of_the_dead_that_wait(
    started: Rig, stuck: Stuck, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_ORDER_WITHIN", DEADLINE)
    worker = started.worker()
    worker.logs.write(framed("out.stuck", "first") + framed("out.other", "before"))
    assert stuck.entered.wait(DEADLINE)
    stuck.go.set()
    worker.end()
    started.output.died(worker.name, "killed")
    heard.until("killed")
    assert heard.messages == ["before", "killed"]


@pytest.mark.parametrize("torn", [b"\x03\0\0\0abc", (LARGEST + 1).to_bytes(4, "little")])
def test_a_torn_log_pipe_is_closed_with_one_warning_and_its_lines_go_on(
    started: Rig, heard: Heard, torn: bytes
) -> None:
    worker = started.worker()
    handler, log = forwarder(worker)
    log("out.a", logging.ERROR, "before")
    worker.logs.write(torn)
    warning = heard.until("what it logs is lost from here on")
    assert (warning.name, warning.levelno) == ("offloop", logging.WARNING)
    assert warning.getMessage().startswith("worker-0:4711: a log record ")
    eventually(lambda: len(started.output._workers[worker.name].pipes) == 2, "the pipe is closed")
    with pytest.raises(BrokenPipeError):
        worker.logs.write(torn)
    log("out.a", logging.ERROR, "after")
    handler.close()
    worker.out.write(b"still\n")
    started.out.until("still\n")
    heard.until("before")
    started.output.close(DEADLINE)
    assert len(heard.messages) == 2


def test_a_record_that_its_workers_death_cut_off_is_passed_over(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    worker.logs.write(b"\x09\0\0\0abc")
    worker.end()
    started.output.died(worker.name, "worker 0 was killed")
    heard.until("worker 0 was killed")
    assert len(heard.messages) == 1


# ---- a worker's end


def test_a_death_is_logged_with_the_last_lines_on_stderr(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    worker.out.write(b"not these\n")
    worker.err.write(b"Fatal: 100 %d\nsegmentation")
    started.output.died(worker.name, "worker 0 was killed by SIGSEGV")
    worker.end()
    record = heard.until("SIGSEGV")
    assert (record.name, record.levelno) == ("offloop", logging.ERROR)
    assert record.getMessage() == (
        "worker 0 was killed by SIGSEGV\n  Its last lines on stderr:\n    Fatal: 100 %d\n    segmentation"
    )
    assert started.err.text == "[worker 0] Fatal: 100 %d\n[worker 0] segmentation\n"
    assert started.output._workers == {}


def test_of_the_last_lines_only_so_many_are_logged(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    worker.err.write(b"".join(b"line %d\n" % number for number in range(50)))
    worker.end()
    started.output.died(worker.name, "killed")
    lines = heard.until("killed").getMessage().splitlines()
    assert lines[2:] == [f"    line {number}" for number in range(50 - LAST_LINES, 50)]


@pytest.mark.parametrize("line", [b"x" * 1500, b"x" * (LAST_WORDS + 9), b"x" * (LONGEST - 1)])
def test_and_only_so_many_characters_of_them(started: Rig, heard: Heard, line: bytes) -> None:
    worker = started.worker()

    def write() -> None:
        worker.err.write((line + b"\n") * 9 + b"the end\n")
        worker.end()

    in_threads(write)
    started.output.died(worker.name, "killed")
    lines = heard.until("killed").getMessage().splitlines()
    assert lines[-1] == "    the end"
    said = [line.removeprefix("    ") for line in lines[2:]]
    assert sum(map(len, said)) == LAST_WORDS
    assert set("".join(said[:-1])) == {"x"}


def test_a_death_without_last_lines_is_logged_as_it_is(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    worker.end()
    started.output.died(worker.name, "killed: 100 %s")
    assert heard.until("killed").getMessage() == "killed: 100 %s"


def test_a_death_is_logged_though_its_pipes_are_held_open(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    worker.err.write(b"last words")
    started.output.died(worker.name, "killed")
    assert heard.until("killed").getMessage().endswith("\n    last words")
    eventually(lambda: not started.output._workers, "the worker is forgotten")
    with pytest.raises(BrokenPipeError):
        worker.err.write(b"from the grave")


def test_a_flood_delays_no_news_of_another_workers_death(started: Rig, heard: Heard) -> None:
    loud, dead = started.worker(), started.worker()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            loud.out.write(b"y" * 100 + b"\n")

    def dies() -> None:
        try:
            started.out.until("yyy")
            dead.err.write(b"last words\n")
            started.output.died(dead.name, "killed")  # its pipes stay open
            assert heard.until("killed").getMessage().endswith("\n    last words")
        finally:
            over.set()

    in_threads(flood, dies)


def test_a_dead_workers_pipe_that_never_runs_dry_is_closed(started: Rig, heard: Heard) -> None:
    worker = started.worker()
    eventually(lambda: worker.name in started.output._workers, "the worker is known")

    class Endless:
        def feed(self, data: bytes) -> None:
            worker.out.write(data)

        def end(self) -> None: ...

    started.output._workers[worker.name].pipes[worker.reads[0]] = Endless()
    worker.out.write(b"y")
    started.output.died(worker.name, "killed")
    heard.until("killed")


@pytest.mark.parametrize("first", ["end", "news"])
def test_a_death_is_logged_as_soon_as_its_pipes_have_ended(
    started: Rig, heard: Heard, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(module, "GRACE", 1000.0)
    worker = started.worker()
    if first == "end":
        worker.end()
        known = started.output._workers
        eventually(lambda: worker.name in known and not known[worker.name].pipes, "the pipes have ended")
    started.output.died(worker.name, "killed")
    worker.end()
    heard.until("killed")


def test_a_worker_that_left_as_asked_is_read_to_its_end_and_not_spoken_of(started: Rig, heard: Heard) -> None:
    ended, held = started.worker(), started.worker()
    for worker in (ended, held):
        worker.err.write(b"bye")
        started.output.left(worker.name)
    ended.end()
    started.err.until("[worker 0] bye\n")
    started.err.until("[worker 1] bye\n")
    eventually(lambda: not started.output._workers, "both are forgotten")
    assert heard.messages == []


def test_news_of_a_worker_that_was_never_added_are_logged_or_passed_over(started: Rig, heard: Heard) -> None:
    started.output.left("worker-7:1")
    started.output.died("worker-7:1", "could not be started")
    assert heard.until("could not").levelno == logging.ERROR


# ---- its own life


def test_what_was_given_before_the_start_is_done_at_the_start(rig: Rig, heard: Heard) -> None:
    worker = rig.worker()
    worker.err.write(b"early\n")
    rig.output.died(worker.name, "killed early")
    worker.end()
    rig.output.start()
    heard.until("killed early")
    assert rig.err.text == "[worker 0] early\n"


def test_close_passes_on_what_is_there_without_waiting_for_pipes_to_end(started: Rig, heard: Heard) -> None:
    open_, dying = started.worker(), started.worker()
    handler, log = forwarder(open_)
    open_.out.write(b"one\ntwo")
    log("out.a", logging.ERROR, "logged")
    dying.err.write(b"last words")
    started.output.died(dying.name, "killed")
    started.output.close(DEADLINE)
    handler.close()
    assert started.out.text == "[worker 0] one\n[worker 0] two\n"
    assert heard.messages.count("logged") == 1
    assert heard.until("killed").getMessage().endswith("last words")
    with pytest.raises(BrokenPipeError):
        open_.out.write(b"too late")


def test_closing_twice_and_at_once_is_closing(started: Rig) -> None:
    started.worker().out.write(b"one\n")
    in_threads(*[lambda: started.output.close(DEADLINE)] * 3)
    started.output.close(DEADLINE)
    assert started.out.text == "[worker 0] one\n"


def test_closing_without_a_start_closes_what_was_given(rig: Rig) -> None:
    rig.worker().out.write(b"one\n")
    rig.output.close(DEADLINE)
    assert rig.out.text == "[worker 0] one\n"


def test_after_its_end_pipes_are_closed_at_once_and_deaths_still_logged(started: Rig, heard: Heard) -> None:
    started.output.close(DEADLINE)
    worker = started.worker()
    with pytest.raises(BrokenPipeError):
        worker.out.write(b"too late")
    started.output.left(worker.name)
    started.output.died(worker.name, "killed late")
    assert heard.messages == ["killed late"]


def test_close_waits_no_longer_than_it_is_told_for_a_stream_that_blocks(started: Rig) -> None:
    started.out.go.clear()
    started.worker().out.write(b"one\n")
    assert started.out.entered.wait(DEADLINE)
    started.output.close(0.01)
    assert started.output._thread.is_alive()
    started.out.go.set()
    started.output.close(DEADLINE)
    assert started.out.text == "[worker 0] one\n"

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offloop import errors
from offloop.events import KINDS, Event, Events
from offloop.telemetry import event_log
from offloop.telemetry.event_log import EventLog, boot
from offloop.telemetry.verify import verify

Make = Callable[..., EventLog]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[EventLog] = []

    def make(name: str = "events.log", **options: Any) -> EventLog:
        made.append(EventLog(str(tmp_path / name), **options))
        return made[-1]

    yield make
    for log in made:
        log.close()


def lines(log: EventLog) -> list[dict[str, Any]]:
    assert log.flush(10.0)
    return [json.loads(line) for line in Path(log.path).read_bytes().splitlines()]


def emit(log: EventLog, *kinds: str, rid: str = "") -> None:
    for number, kind in enumerate(kinds):
        log(Event(t=float(number), kind=kind, rid=rid))  # type: ignore[arg-type]


class Writes:
    """Stands for `os.write`: lets a test hold the writer, or let it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[int | OSError] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self._write = os.write
        monkeypatch.setattr(event_log.os, "write", self)

    def __call__(self, file: int, data: memoryview) -> int:
        self.entered.set()
        assert self.go.wait(10.0)
        answer = self.answers.pop(0) if self.answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        return self._write(file, data[:answer])


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def test_a_line_holds_what_the_contract_names_and_what_its_kind_has_to_say(make: Make) -> None:
    log = make()
    log(Event(t=1.5, kind="admit", rid="r1", endpoint="read", deadline=9.0, limit=32, request_id="mine"))
    log(Event(t=2.5, kind="terminal", rid="r1", endpoint="read", outcome="ok", started=True, admitted_at=1.5))
    first, second = lines(log)
    assert first["host"] == socket.gethostname()
    assert first["boot"] == boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert first["pid"] == os.getpid()
    least = {"t": 1.5, "seq": 1, "rid": "r1", "kind": "admit", "endpoint": "read", "attempt": 1, "deadline": 9.0,
             "outcome": "", "started": None}  # fmt: skip
    assert least.items() <= first.items()
    assert (first["limit"], first["request_id"]) == (32, "mine")
    assert (second["seq"], second["started"], second["admitted_at"]) == (2, True, 1.5)
    assert "limit" not in second
    assert first["run"] == second["run"]


def test_host_and_pid_are_filled_in(make: Make) -> None:
    log = make("{host}-{pid}-{other}.log")
    assert Path(log.path).name == f"{socket.gethostname()}-{os.getpid()}-{{other}}.log"
    emit(log, "open")
    assert len(lines(log)) == 1


def test_it_observes_every_kind(make: Make) -> None:
    log = make()
    events = Events([log])
    for kind in KINDS:
        events.emit(1.0, kind)
    assert [line["kind"] for line in lines(log)] == list(KINDS)


def test_two_logs_may_share_a_file(make: Make) -> None:
    first, second = make(), make()
    for number in range(200):
        emit(first if number % 2 else second, "arrive", rid=f"r{number}")
    first.flush()
    told = lines(second)
    assert len(told) == 200
    assert {line["run"] for line in told if int(line["rid"][1:]) % 2} != {line["run"] for line in told}
    assert verify([first.path]).exit_code == 0


def test_events_of_many_threads_are_numbered_without_a_hole(make: Make) -> None:
    log = make()
    threads = [threading.Thread(target=emit, args=(log, *["start"] * 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["seq"] for line in lines(log)] == list(range(1, 2001))


def test_many_events_are_written_at_once(make: Make, writes: Writes) -> None:
    log = make()
    writes.go.clear()
    emit(log, "open")
    assert writes.entered.wait(10.0)
    emit(log, *["arrive"] * 500)
    counted: list[int] = []
    write = writes._write
    writes._write = lambda file, data: counted.append(len(data)) or write(file, data)  # type: ignore[func-returns-value]
    writes.go.set()
    assert len(lines(log)) == 501
    assert len(counted) <= 3


def test_what_finds_no_room_is_lost_and_a_gap_says_so(make: Make, writes: Writes) -> None:
    log = make(room=10)
    writes.go.clear()
    emit(log, "open")
    assert writes.entered.wait(10.0)
    emit(log, *["arrive"] * 14)
    writes.go.set()
    told = lines(log)
    gaps = [line for line in told if line["kind"] == "gap"]
    assert [gap["lost"] for gap in gaps] == [4]
    assert len(told) == 1 + 10 + 1
    emit(log, "close")
    lines(log)
    report = verify([log.path])
    assert report[1].state == "not checkable"
    assert any("are missing" in why for why in report[1].why)


def test_a_full_disk_is_logged_once_and_leaves_a_gap(
    make: Make, writes: Writes, caplog: pytest.LogCaptureFixture
) -> None:
    log = make()
    emit(log, "open")
    assert log.flush()
    full = OSError(28, "No space left on device")
    writes.answers = [30, full]  # the first thirty bytes of a line still fit
    emit(log, "arrive")
    assert log.flush()
    writes.answers = [full]
    emit(log, "arrive")
    assert log.flush()
    emit(log, "arrive", "close")
    raw = Path(log.path).read_bytes().splitlines()
    assert log.flush()
    raw = Path(log.path).read_bytes().splitlines()
    assert len(raw[1]) == 30
    assert [json.loads(line)["kind"] for line in (raw[0], *raw[2:])] == ["open", "gap", "arrive", "close"]
    assert json.loads(raw[2])["lost"] == 2
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "No space left on device" in caplog.text
    report = verify([log.path])
    assert report.exit_code == 0
    assert report[1].state == "not checkable"


def test_a_directory_that_vanishes_harms_nobody(make: Make, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = make("logs/events.log")
    emit(log, "open")
    assert log.flush()
    Path(log.path).unlink()
    (tmp_path / "logs").rmdir()
    emit(log, "arrive")
    assert log.flush()


def test_a_path_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none" / "events.log"), "a\0b"):
        with pytest.raises(errors.SettingsError, match="OFFLOOP_EVENT_LOG="):
            EventLog(path)
    assert not [thread for thread in threading.enumerate() if thread.name == "offloop-event-log"]


def test_a_line_that_another_writer_left_torn_is_mended(make: Make, tmp_path: Path) -> None:
    (tmp_path / "events.log").write_text('{"t": 1.0, "kind": "op')
    log = make()
    emit(log, "open", "close")
    assert log.flush()
    raw = Path(log.path).read_text().splitlines()
    assert raw[0] == '{"t": 1.0, "kind": "op'
    assert [json.loads(line)["kind"] for line in raw[1:]] == ["gap", "open", "close"]
    assert json.loads(raw[1])["lost"] == 0
    report = verify([log.path])
    assert report[1].why == ("no request arrived",)


def test_a_label_that_utf8_cannot_hold_costs_its_line_and_nothing_else(make: Make) -> None:
    log = make()
    log(Event(t=1.0, kind="arrive", rid="r1", request_id="\ud800"))
    emit(log, "admit")
    assert [line["kind"] for line in lines(log)] == ["gap", "admit"]


def test_closing_writes_what_is_left_and_later_events_are_passed_over(make: Make) -> None:
    log = make()
    emit(log, *["arrive"] * 100, "close")
    log.close()
    emit(log, "arrive")
    log.close()
    assert len(Path(log.path).read_bytes().splitlines()) == 101


def test_a_close_that_takes_too_long_is_given_up(make: Make, writes: Writes, caplog: pytest.LogCaptureFixture) -> None:
    log = make()
    writes.go.clear()
    emit(log, "open")
    assert writes.entered.wait(10.0)
    assert log.flush(timeout=0.01) is False
    log.close(timeout=0.01)
    assert "when its time was up" in caplog.text
    writes.go.set()


def test_half_a_room_full_is_written_without_waiting_for_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "LINGER", 3600.0)
    log = make(room=8)
    emit(log, *["arrive"] * 5)
    with log._changed:
        assert log._changed.wait_for(lambda: log._settled >= 5, 10.0)


def test_without_a_boot_id_times_are_compared_within_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(event_log.Path, "read_text", missing)
    boot.cache_clear()
    try:
        assert boot() == boot()
        assert boot().startswith("process-")
    finally:
        boot.cache_clear()


# ---- at once


def test_a_line_that_is_written_at_once_is_in_the_file_when_the_call_returns(make: Make) -> None:
    log = make(at_once=True)
    for number in range(3):
        emit(log, "start", rid=f"r{number}")
        written = [json.loads(line) for line in Path(log.path).read_bytes().splitlines()]
        assert [(line["rid"], line["seq"]) for line in written] == [(f"r{n}", n + 1) for n in range(number + 1)]
    assert log.flush(0.0)


def test_lines_that_several_threads_write_at_once_are_whole_and_in_order(make: Make) -> None:
    log = make(at_once=True)
    threads = [threading.Thread(target=emit, args=(log, *["start"] * 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["seq"] for line in lines(log)] == list(range(1, 201))


def test_what_could_not_be_written_at_once_leaves_a_gap(make: Make, writes: Writes) -> None:
    log = make(at_once=True)
    writes.answers = [OSError(28, "No space left on device"), OSError(28, "No space left on device")]
    emit(log, "start", "finish", "start")
    gap, last = (json.loads(line) for line in Path(log.path).read_bytes().splitlines() if line)
    assert (gap["kind"], gap["lost"]) == ("gap", 2)
    assert (last["kind"], last["seq"]) == ("start", 3)


def test_a_gap_at_the_end_is_written_by_the_close_and_nothing_after_it(make: Make, writes: Writes) -> None:
    log = make(at_once=True)
    writes.answers = [OSError(5, "Input/output error")]
    emit(log, "start")
    log.close()
    log.close()
    emit(log, "finish")
    (gap,) = (json.loads(line) for line in Path(log.path).read_bytes().splitlines() if line)
    assert (gap["kind"], gap["lost"]) == ("gap", 1)

"""Reading event logs: what is passed over, what is refused, and what the report says of where."""

import json
from pathlib import Path

import pytest

from offloop.telemetry.verify import verify
from tests.support.histories import Story, number, write


def day() -> list[dict[str, object]]:
    story = Story()
    story.ok("a", 1.0)
    return story.lines()


def test_a_log_is_read_and_every_violation_names_its_lines(tmp_path: Path) -> None:
    story = Story()
    story.ok("a", 1.0)
    story.say(1.01, "arrive", "a")
    path = write(tmp_path / "web.log", story.lines())
    report = verify([path])
    assert report.violated == (1,)
    assert report.exit_code == 1
    assert f"({path}:2, {path}:6)" in report.lines()[1]


def test_logs_of_several_processes_are_read_together(tmp_path: Path) -> None:
    loops = {"dequeue", "start", "finish"}
    story = Story(mode="process")
    story.ok("a", 1.0)
    lines = story.lines()
    web = write(tmp_path / "web.log", number(line for line in lines if line["kind"] not in loops))
    told = [*(line for line in lines if line["kind"] in loops), {"t": 9.0, "kind": "close"}]
    worker = write(tmp_path / "worker.log", number(told, pid=8))
    report = verify([web, str(worker)])
    assert report[2].state == report[6].state == "held", report.lines()
    assert report.exit_code == 0


def test_two_offloops_may_share_a_file(tmp_path: Path) -> None:
    first, second = day(), number([line | {"rid": line["rid"] and "b"} for line in day()], run="r2")
    mixed = [line for pair in zip(first, second, strict=True) for line in pair]
    report = verify([write(tmp_path / "both.log", mixed)])
    assert [report[promise].state for promise in range(1, 7)] == ["held"] * 6, report.lines()


def test_a_log_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "web.log", day())
    assert verify([path, tmp_path / "." / "web.log"]).violated == ()


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "web.log", day())
    whole = verify([path])
    with path.open("a") as file:
        file.write('{"t": 7.0, "kind": "arr')
    assert verify([path]).verdicts[0].state == whole.verdicts[0].state == "held"


def test_a_torn_line_is_passed_over_where_the_next_writer_mended_it(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    first = number([{"t": 0.5, "kind": "open", "mode": "thread"}], run="killed")
    path.write_text(json.dumps(first[0]) + '\n{"t": 0.6, "ki\n' + '{"t": 1.0, "kind": "gap", "lost": 0}\n\n')
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in day())
    report = verify([path])
    assert report[1].state == "held", report.lines()


def test_kinds_and_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    lines = day()
    news = {"t": 2.0, "kind": "novelty", "colour": "blue"}
    report = verify([write(tmp_path / "web.log", number([*lines[:-1], news, lines[-1]]))])
    assert report[1].state == "held"


def test_an_empty_file_is_readable_and_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    path.touch()
    report = verify([path])
    assert report.exit_code == 0
    assert {verdict.state for verdict in report.verdicts} == {"not checkable"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"hello\n", 1),
        (b"hello", 1),
        (b"\x1f\x8b\x08\x00 zipped", 1),
        (b'{"t": 1.0, "kind": "open"}\n{"t": 1.0, "ki\n{"t": 2.0, "kind": "close"}\n', 2),
        (b'{"t": 1.0, "ki\n{"t": 1.0, "ki\n', 2),
        (b'{"t": 1.0}\n', 1),
        (b'{"t": "soon", "kind": "open"}\n', 1),
        (b'["t", 1.0]\n', 1),
        (b'{"t": 1.0, "kind": "op\xff"}\nx\n', 2),
    ],
)
def test_what_is_no_event_log_is_refused_with_its_place(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "web.log"
    path.write_bytes(content)
    report = verify([path])
    assert report.exit_code == 2
    assert report.lines()[0].startswith(f"{path}:{line}: not a line of an event log: ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.log", "No such file"), (tmp_path, "directory")):
        report = verify([path])
        assert report.exit_code == 2
        assert f"{path}: cannot be read" in report.lines()[0]
        assert why in report.lines()[0]
    assert verify([]).lines() == ["no event log was given"]

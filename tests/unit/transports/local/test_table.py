"""The table of what has begun, between two real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offloop.transports.local.table import Table, shared_memory

PLACES = 5
WRITER = """
import sys
from offloop.transports.local.table import Table

table = Table(int(sys.argv[1]))
for line in sys.stdin:
    place, at, *mark = line.split()
    if mark:
        table.mark(int(place), int(at), int(mark[0]))
    else:
        table[int(place)] = float(at)
    print(table[0], flush=True)
"""
"""Writes what it is told, and says what it finds at the first place."""


class Writer:
    def __init__(self, memory: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(memory)], pass_fds=[memory], text=True, cwd=Path(__file__).parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def write(self, place: int, at: float) -> float:
        """Returns once it has written, with what is at the first place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{place} {at!r}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def mark(self, place: int, upper: int, lower: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{place} {upper} {lower}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait(10) == -signal.SIGKILL

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)


@pytest.fixture
def memory() -> Iterator[int]:
    memory = shared_memory(PLACES)
    yield memory
    os.close(memory)


@pytest.fixture
def table(memory: int) -> Iterator[Table]:
    table = Table(memory)
    yield table
    table.close()


@pytest.fixture
def writer(memory: int) -> Iterator[Writer]:
    writer = Writer(memory)
    yield writer
    writer.close()


def test_a_fresh_table_says_that_nothing_has_begun(table: Table) -> None:
    assert len(table) == PLACES
    assert [table[place] for place in range(PLACES)] == [0.0] * PLACES


def test_what_one_process_writes_the_other_reads(table: Table, writer: Writer) -> None:
    for place in range(PLACES):
        writer.write(place, place + 0.1)
        assert table[place] == place + 0.1
    table[0] = 0.0
    assert writer.write(4, 1e6 + 1 / 3) == 0.0
    assert [table[place] for place in range(PLACES)] == [0.0, 1.1, 2.1, 3.1, 1e6 + 1 / 3]


def test_what_was_written_outlives_the_writers_sudden_death(table: Table, writer: Writer) -> None:
    writer.write(3, 12.25)
    writer.kill()
    assert [table[place] for place in range(PLACES)] == [0.0, 0.0, 0.0, 12.25, 0.0]


def test_marks_outlive_the_writer_and_are_nobodys_times(table: Table, writer: Writer) -> None:
    assert table.marks() == {}
    now = 1_795_000_000_123
    writer.mark(0, now, 0)
    writer.mark(4, now, 7)
    writer.mark(4, now + 1, 3)
    writer.mark(2, 1, 2**40)
    writer.kill()
    assert table.marks() == {0: (now, 0), 2: (1, 2**40), 4: (now + 1, 3)}
    assert list(table) == [0.0] * PLACES


def test_a_mark_that_is_half_written_is_never_too_low(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed between the two stores has not begun the next, and is not to seem to have begun less."""
    stored: list[dict[int, tuple[int, int]]] = []

    class Watched:
        def __init__(self, words: Any) -> None:
            self.words = words

        def __getitem__(self, at: int) -> float:
            return self.words[at]  # type: ignore[no-any-return]

        def __setitem__(self, at: int, word: float) -> None:
            self.words[at] = word
            stored.append(table.marks())

    table.mark(1, 5, 9)
    monkeypatch.setattr(table, "_words", Watched(table._words))
    monkeypatch.setattr(Watched, "__len__", lambda self: len(self.words), raising=False)
    table.mark(1, 6, 0)
    assert [marks[1] for marks in stored] == [(6, 9), (6, 0)]


def test_its_descriptor_may_be_closed_while_it_is_in_use() -> None:
    memory = shared_memory(PLACES)
    table, other = Table(memory), Table(memory)
    os.close(memory)
    table[4] = 1.5
    assert other[4] == 1.5
    for each in (table, other):
        each.close()
        each.close()


def test_there_is_no_place_beyond_the_last(table: Table) -> None:
    with pytest.raises(IndexError):
        table[PLACES] = 1.0


def test_no_name_leads_to_it_where_there_is_no_memory_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    memory = shared_memory(PLACES)
    table = Table(memory)
    os.close(memory)
    assert list(tmp_path.iterdir()) == []
    table[0] = 2.5
    assert table[0] == 2.5
    table.close()

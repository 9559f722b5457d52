"""Thousands of random histories of the shipped gateway and core.

`SIMULATION_HISTORIES` says how many, `SIMULATION_FIRST` from which seed on. A history that fails is made small and
told, with the command that runs it again.
"""

import os
from collections import Counter

import pytest

from tests.simulation.history import History
from tests.simulation.story import fails, smallest, tell

HISTORIES = int(os.environ.get("SIMULATION_HISTORIES", "2000"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
PARTS = 20


@pytest.mark.parametrize("part", range(PARTS))
def test_the_promises_hold_in_every_history(part: int) -> None:
    for seed in range(FIRST + part, FIRST + HISTORIES, PARTS):
        failure = fails(seed)
        if failure is not None:
            pytest.fail(tell(*smallest(seed, failure)), pytrace=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_promises_hold_in_many_more_histories() -> None:
    for seed in range(FIRST + HISTORIES, FIRST + 10 * HISTORIES):
        failure = fails(seed)
        if failure is not None:
            pytest.fail(tell(*smallest(seed, failure)), pytrace=False)


def test_a_history_is_the_same_each_time() -> None:
    def events(seed: int) -> list[object]:
        history = History(seed)
        history.run()
        return list(history.recorder.events)

    assert events(7) == events(7)
    assert events(7) != events(8)


@pytest.mark.slow
def test_the_histories_come_to_what_they_are_for() -> None:
    seen: Counter[str] = Counter()
    for seed in range(500):
        history = History(seed)
        history.run()
        if history.account is not None:
            seen += history.account.seen
        seen += history.streams.seen
        seen["waited for room"] += history.plant.waited
    wanted = {
        "ahead": 200, "asked back for a free loop": 20, "asked back though none is free": 8,
        "asked and not answered at once": 8, "taken back and handed again": 20, "went on after its reply": 60,
        "cut short, and longer than was known": 40, "recycled": 100, "wedged": 60, "failed starts": 200,
        "admitted with nobody there": 60, "refused for want of workers": 200, "sent": 2000, "full": 300, "taken": 500,
        "granted": 200, "went on alone": 20, "waited for room": 100,
    }  # fmt: skip
    assert {what: seen[what] for what, least in wanted.items() if seen[what] < least} == {}

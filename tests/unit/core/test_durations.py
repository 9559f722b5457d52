from hypothesis import example, given
from hypothesis import strategies as st

from offloop.core.durations import OVERHEAD, UNKNOWN, Durations

SECONDS = st.floats(0.0, 100.0)


def costs(seconds: float) -> int:
    return int(seconds * 1e6) + OVERHEAD


def test_what_nothing_is_known_of_is_too_long_for_anything() -> None:
    durations = Durations()
    durations.took("other", 0.001)
    assert durations.expected("quick") == UNKNOWN


@given(before=st.lists(SECONDS), seconds=SECONDS)
def test_the_expectation_rises_at_once(before: list[float], seconds: float) -> None:
    durations = Durations()
    for took in (*before, seconds):
        durations.took("quick", took)
    assert durations.expected("quick") >= costs(seconds)


@given(before=st.lists(SECONDS, min_size=1), seconds=SECONDS)
def test_the_expectation_falls_by_an_eighth_of_the_way_and_never_rises_above_all_that_was_seen(
    before: list[float], seconds: float
) -> None:
    durations = Durations()
    for took in before:
        durations.took("quick", took)
    high = durations.expected("quick")
    assert high <= max(costs(took) for took in before)
    durations.took("quick", seconds)
    after = durations.expected("quick")
    if costs(seconds) < high:
        assert high - after == (high - costs(seconds)) // 8
    else:
        assert after == costs(seconds)


def test_an_endpoint_that_was_slow_once_counts_as_quick_again_in_the_end() -> None:
    durations = Durations()
    durations.took("quick", 1.0)
    for _ in range(60):
        durations.took("quick", 0.0001)
    assert durations.expected("quick") < 1000


@given(seconds=st.floats(-1e6, 0.0))
@example(seconds=-1e-9)
def test_a_clock_that_went_backwards_makes_nothing_cheaper_than_nothing(seconds: float) -> None:
    durations = Durations()
    durations.took("quick", seconds)
    assert durations.expected("quick") == OVERHEAD


@given(before=st.lists(SECONDS, min_size=1), seconds=SECONDS)
def test_what_has_not_ended_raises_the_expectation_and_never_lowers_it(before: list[float], seconds: float) -> None:
    durations = Durations()
    for took in before:
        durations.took("slow", took)
    high = durations.expected("slow")
    durations.ran("slow", seconds)
    assert durations.expected("slow") == max(high, costs(seconds))


def test_what_has_not_ended_makes_nothing_known_of_its_endpoint() -> None:
    durations = Durations()
    durations.ran("new", 0.0)
    assert durations.expected("new") == UNKNOWN

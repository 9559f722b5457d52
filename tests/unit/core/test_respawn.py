import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop.core.respawn import BRIEF, FIRST, LONGEST, Respawn

LIVES = st.tuples(st.none() | st.floats(0.0, 2 * BRIEF), st.integers(0, 2), st.floats(0.0, 1.0))


@pytest.mark.parametrize(("lived", "handed"), [(BRIEF, 0), (BRIEF - 0.001, 1), (0.0, 1), (3600.0, 900)])
def test_a_worker_that_had_served_is_replaced_at_once(lived: float, handed: int) -> None:
    assert Respawn().delay(lived=lived, handed=handed, random=1.0) == 0.0


@pytest.mark.parametrize(("lived", "handed"), [(None, 0), (None, 3), (0.0, 0), (BRIEF - 0.001, 0)])
def test_a_worker_that_never_served_is_replaced_after_a_while(lived: float | None, handed: int) -> None:
    assert Respawn().delay(lived=lived, handed=handed, random=1.0) == FIRST


def test_every_failure_doubles_the_wait_up_to_the_longest() -> None:
    respawn = Respawn()
    waits = [respawn.delay(lived=None, handed=0, random=1.0) for _ in range(9)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_place_that_fails_for_days_is_still_tried() -> None:
    respawn = Respawn()
    assert max(respawn.delay(lived=None, handed=0, random=1.0) for _ in range(3000)) == LONGEST


def test_hosts_that_fail_together_do_not_try_together() -> None:
    waits = [Respawn().delay(lived=None, handed=0, random=share) for share in (0.0, 0.5, 1.0)]
    assert waits == [FIRST / 2, FIRST * 0.75, FIRST]


@given(lives=st.lists(LIVES, max_size=30))
def test_the_wait_follows_from_the_failures_since_the_last_worker_that_served(
    lives: list[tuple[float | None, int, float]],
) -> None:
    respawn = Respawn()
    failures = 0
    for lived, handed, share in lives:
        delay = respawn.delay(lived=lived, handed=handed, random=share)
        served = lived is not None and (handed > 0 or lived >= BRIEF)
        failures = 0 if served else failures + 1
        whole = min(LONGEST, FIRST * 2 ** (failures - 1)) if failures else 0.0
        assert whole / 2 <= delay <= whole

"""What becomes of what a lost worker had."""

import pytest

from offloop.core.redelivery import Fate, fate


@pytest.mark.parametrize(
    ("again", "attempt", "left", "end"),
    [
        (False, 1, 5.0, Fate.LOST),
        (True, 1, 5.0, Fate.AGAIN),
        (True, 2, 5.0, Fate.AGAIN),
        (True, 3, 5.0, Fate.DEAD),
        (True, 4, 5.0, Fate.DEAD),
        (True, 1, 0.0, Fate.EXPIRED),
        (False, 1, -1.0, Fate.EXPIRED),
        (True, 3, -1.0, Fate.EXPIRED),
    ],
)
def test_it_is_run_again_lost_or_kept_and_never_past_its_deadline(
    again: bool, attempt: int, left: float, end: Fate
) -> None:
    assert fate(again=again, attempt=attempt, max_deliveries=3, left=left) is end

"""What becomes of a request that lay with a worker that is no more. Owns that decision, and nothing that acts on it."""

from enum import StrEnum


class Fate(StrEnum):
    EXPIRED = "expired"  # its waiter has ended by itself: nobody is to be told
    LOST = "lost"
    AGAIN = "again"
    DEAD = "dead"  # lost, and kept for people to look at: it may be what kills workers


def fate(*, again: bool, attempt: int, max_deliveries: int, left: float) -> Fate:
    """Judge it.

    Args:
        again: whether it may begin once more, be it because it had not begun.
        attempt: the one that was lost, from 1; 0 where none was.
        max_deliveries: how often it may begin.
        left: seconds until its deadline.
    """
    if left <= 0:
        return Fate.EXPIRED
    if not again:
        return Fate.LOST
    return Fate.AGAIN if attempt < max_deliveries else Fate.DEAD

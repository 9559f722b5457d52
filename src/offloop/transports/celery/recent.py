"""What was seen lately: a set that forgets. It knows nothing of what is in it."""

REMEMBERED = 10_000
"""Names that are kept at the least; so many requests are not under way at once."""


class Recent:
    """Names that were added lately: the last `REMEMBERED`, at the least. For one thread that adds."""

    def __init__(self) -> None:
        self._now: set[str] = set()
        self._before: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._now or name in self._before

    def add(self, name: str) -> None:
        if len(self._now) >= REMEMBERED:
            self._now, self._before = set(), self._now
        self._now.add(name)

    def clear(self) -> None:
        self._now, self._before = set(), set()

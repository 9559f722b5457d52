"""What is on its way in the streams of a history, counted apart from whoever decides how much may be.

Owns the account of what loops sent, callers took and loops were told of it, and the judgement of each.
"""

from collections import Counter

from offloop.messages import FRAME, WINDOW, Chunk


def weight(chunk: Chunk) -> int:
    return len(chunk.payload) + FRAME


class Streams:
    """All streams of one history, by rid."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._sent: Counter[tuple[str, int]] = Counter()
        self._taken: Counter[str] = Counter()
        self._granted: Counter[str] = Counter()
        self._heard: dict[str, int] = {}
        self._unbounded: set[str] = set()

    # ---- what it is told

    def sent(self, chunk: Chunk) -> None:
        """By a loop, which had room for it."""
        rid = chunk.rid
        on_its_way = self._sent[rid, chunk.attempt] - self._taken[rid]
        assert on_its_way < WINDOW or rid in self._unbounded, f"{rid} has {on_its_way} bytes on their way, and more"
        self._sent[rid, chunk.attempt] += weight(chunk)
        self.seen["sent"] += 1
        self.seen["full"] += on_its_way + weight(chunk) >= WINDOW

    def heard(self, chunk: Chunk) -> None:
        """By the caller, who has yet to take it."""
        attempt = self._heard.setdefault(chunk.rid, chunk.attempt)
        assert attempt == chunk.attempt, f"{chunk.rid} was run again after its caller had heard of it"

    def taken(self, chunk: Chunk) -> None:
        self._taken[chunk.rid] += weight(chunk)
        self.seen["taken"] += 1

    def granted(self, rid: str, room: int) -> None:
        """To its loop."""
        assert room > 0
        self._granted[rid] += room
        self.seen["granted"] += 1
        if rid not in self._unbounded:
            assert self._granted[rid] <= self._taken[rid], f"{rid} was granted what nobody has taken"

    def left(self, rid: str) -> None:
        """Its caller takes no more, and its work goes on: it is not to wait."""
        self._unbounded.add(rid)
        self.seen["went on alone"] += 1

    # ---- what it judges

    def owed(self, rid: str) -> None:
        """Of a request that runs: what was taken is granted, but for less than a quarter of a window."""
        if rid not in self._unbounded:
            owed = self._taken[rid] - self._granted[rid]
            assert owed < WINDOW // 4, f"{rid} was not told of {owed} bytes that were taken"

    def was_heard(self, rid: str) -> bool:
        return rid in self._heard

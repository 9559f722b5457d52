"""How long each endpoint's work takes, as told by what ended lately.

Owns one number for each endpoint, on the safe side: it rises at once and falls slowly, so that an endpoint counts as
quick only while nothing else is seen of it.
"""

UNKNOWN = 10**12
"""Microseconds of an endpoint that nothing is known of: too long for anything."""
ANY = ""
"""The name under which somebody who does not know what comes next keeps what all of them took."""
AHEAD = 2000
"""Microseconds of expected work that one loop may be given beyond what it runs."""
OVERHEAD = 30
"""Microseconds that any request costs a worker besides its nodes."""


class Durations:
    """Microseconds, in whole numbers, so that sums of them stay exact."""

    def __init__(self) -> None:
        self._expected: dict[str, int] = {}

    def expected(self, endpoint: str) -> int:
        """What one request of it will cost a loop."""
        return self._expected.get(endpoint, UNKNOWN)

    def took(self, endpoint: str, seconds: float) -> None:
        """One request of it has run for so long."""
        latest = _cost(seconds)
        before = self._expected.get(endpoint, 0)
        self._expected[endpoint] = latest if latest >= before else before - (before - latest) // 8

    def ran(self, endpoint: str, seconds: float) -> None:
        """One request of it has run for so long and has not ended: no evidence that any is quicker."""
        if endpoint in self._expected:
            self._expected[endpoint] = max(self._expected[endpoint], _cost(seconds))


def _cost(seconds: float) -> int:
    return int(seconds * 1e6) + OVERHEAD if seconds > 0 else OVERHEAD

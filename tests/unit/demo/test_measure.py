import asyncio
from collections import Counter
from typing import cast

import pytest

from offloop.demo import measure as measuring
from offloop.demo.client import Answer, Client
from offloop.demo.measure import CALLERS, Latency, Way, measure, quiet, worth_measuring


class FakeClient:
    """Answers as a server would whose loop is blocked for some seconds by each upload."""

    def __init__(self, blocked: float = 0.0, status: int = 200, seconds: float = 0.1) -> None:
        self.sent: Counter[str] = Counter()
        self.at_once = self.most = 0
        self._blocked, self._status, self._seconds = blocked, status, seconds
        self._free = asyncio.Lock()

    async def send(self, method: str, path: str, body: bytes = b"", media_type: str | None = None) -> Answer:
        self.sent[path] += 1
        self.at_once += path != "/ping"
        self.most = max(self.most, self.at_once)
        async with self._free:
            await asyncio.sleep(self._blocked if path != "/ping" else 0)
        self.at_once -= path != "/ping"
        return Answer(self._status, {}, b"", self._seconds)

    async def close(self) -> None:
        pass


def as_client(fake: FakeClient) -> Client:
    return cast(Client, fake)


def test_percentiles_are_by_nearest_rank() -> None:
    assert Latency.of([float(number) for number in range(100, 0, -1)]) == Latency(p50=50, p99=99, longest=100)
    assert Latency.of([7.0]) == Latency(p50=7, p99=7, longest=7)


def test_all_uploads_are_made_by_so_many_callers_at_once_and_counted() -> None:
    async def story() -> None:
        fake = FakeClient(blocked=0.001)
        measured = await measure(as_client(fake), Way("somehow", "/somewhere"), b"", 20)
        assert (measured.label, measured.read, fake.sent["/somewhere"]) == ("somehow", 20, 20)
        assert fake.most == CALLERS
        assert measured.seconds > 0

    asyncio.run(story())


def test_what_is_not_answered_with_200_is_not_counted_as_read() -> None:
    async def story() -> None:
        measured = await measure(as_client(FakeClient(status=503)), Way("somehow", "/somewhere"), b"", 8)
        assert measured.read == 0

    asyncio.run(story())


def test_pings_go_on_by_the_clock_while_none_is_answered() -> None:
    async def story() -> None:
        fake = FakeClient(blocked=0.3)
        measured = await measure(as_client(fake), Way("blocking", "/somewhere"), b"", 1)
        assert fake.sent["/ping"] >= 25, "one each 10 ms, though the first is answered after 300"
        # Taken from when each was due: they waited 300, 290, 280, ... ms.
        assert 0.1 < measured.ping.p50 < 0.2
        assert 0.28 < measured.ping.longest < 0.5

    asyncio.run(story())


def test_a_server_that_goes_away_ends_the_measurement() -> None:
    class Gone(FakeClient):
        async def send(self, method: str, path: str, body: bytes = b"", media_type: str | None = None) -> Answer:
            raise ConnectionResetError

    async def story() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await measure(as_client(Gone()), Way("somehow", "/somewhere"), b"", 8)
        assert caught.group_contains(ConnectionResetError)

    asyncio.run(story())


def test_the_quiet_row_has_pings_and_no_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "QUIET", 0.05)

    async def story() -> None:
        row = await quiet(as_client(FakeClient()))
        assert (row.read, row.seconds) == (0, 0.0)
        assert row.ping.longest < 0.05

    asyncio.run(story())


@pytest.mark.parametrize(("seconds", "uploads"), [(0.125, 20), (10.0, CALLERS), (0.001, 48)])
def test_the_work_is_sized_by_the_machine(seconds: float, uploads: int) -> None:
    async def story() -> None:
        assert await worth_measuring(as_client(FakeClient(seconds=seconds)), "/somewhere", b"") == uploads

    asyncio.run(story())

"""The local transport does what every transport must: two workers' sides in threads, over real sockets."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from offloop.events import Events
from offloop.messages import Envelope
from offloop.testing.conformance import Ends, Features, TransportConformance
from offloop.testing.conformance.web_side import WebSide
from offloop.transports.local.web import LocalTransport
from tests.unit.transports.local.rig import WorkerSide

PLACES = 5000
"""More than a worker is ever given: the suite puts all that it has for one."""


class Local(TransportConformance):
    # What a worker sends while the web side does not read waits in its socket's buffer, which holds some 200 frames.
    features = Features(late_withdrawal=True, burst=100, late_work=True)
    transport: type[LocalTransport] = LocalTransport

    @pytest.fixture(autouse=True)
    def workers(self) -> Iterator[None]:
        self.opened: list[WorkerSide] = []
        yield
        for worker in self.opened:
            worker.close()

    async def open(self) -> Ends:
        loop = asyncio.get_running_loop()
        transport = self.transport(loop, Events(), max_report=2**21)
        ends: Ends | None = None
        for name in ("worker-1:2", "worker-0:1"):
            worker = WorkerSide(name, PLACES)
            self.opened.append(worker)
            worker.attach(transport)
            worker.serve()
            worker.source.stays_awake = name == "worker-0:1"  # as of a host's workers some do
            ends = Ends(
                sink=transport, source=worker.source, reply_sink=worker.source, reply_source=transport,
                close=transport.close, worker=name, second=ends, lose=partial(_lose, worker, transport, loop),
            )  # fmt: skip
        assert ends is not None
        return ends


def _lose(worker: WorkerSide, transport: LocalTransport, loop: asyncio.AbstractEventLoop) -> None:
    worker.die()
    loop.call_soon_threadsafe(transport.detach, worker.name, "died")


class TestLocal(Local):
    pass


# ---- what only two workers can show


class OneForAll(LocalTransport):
    """All work goes to one worker."""

    def put(self, envelope: Envelope, worker: str | None) -> None:
        super().put(envelope, "worker-0:1")


class AllForOne(LocalTransport):
    """With one worker, all are lost."""

    def detach(self, name: str, cause: str) -> None:
        for each in tuple(self._links):
            super().detach(each, cause)


class Deafened(LocalTransport):
    """A worker's death stops the reader."""

    def detach(self, name: str, cause: str) -> None:
        super().detach(name, cause)
        for link in self._links.values():
            self._loop.remove_reader(link.line.fileno())


BROKEN: Sequence[tuple[type[LocalTransport], str]] = [
    (OneForAll, "what_one_worker_let_go_another_begins"),
    (OneForAll, "what_is_put_for_a_lost_worker_is_without_harm"),
    (AllForOne, "another_worker_goes_on"),
    (Deafened, "another_worker_goes_on"),
]


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_transport_does_not_pass(
    broken: type[LocalTransport], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("suite", "web_side"):
        monkeypatch.setattr(f"offloop.testing.conformance.{module}.DEADLINE", 0.5)

    class Broken(Local):
        transport = broken

    test = Broken()
    test.opened = []
    with WebSide() as web:
        ends = web.run(test.open())
        web.call(ends.reply_source.subscribe, web.receive)
        with pytest.raises(AssertionError):
            getattr(test, f"test_{name}")(web=web, ends=ends)
        web.call(ends.close)
    for worker in test.opened:
        worker.close()

"""The broker is stopped, killed, frozen, filled, emptied and cut off, under load: what callers see, and for how long.

Every fault: requests are refused at once as soon as it can be known, whoever waits ends by the deadline, the event
loop goes on, and soon after the broker's return there is service again.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple

import httpx
import pytest

from offloop.transports.redis.names import LEASE
from offloop.transports.redis.reaping import GRACE
from tests.support.broker import Broker, broker
from tests.support.cluster import Callers, host, post, said, wait_served, wait_until, web
from tests.support.gate import Gate
from tests.support.proxy import Proxy, proxy
from tests.support.server import Server
from tests.support.wire import Wire

REQUESTS = "test:requests:default"
TIMEOUT = 2.0
"""Of the endpoint that is asked."""
DETECTED = 1.0
"""Seconds after which a hang is known."""
AT_ONCE = 0.25
"""What a refusal may take: it waits for nobody, and shares two cores with everything else."""
SERVES_AGAIN = 5.0
SLACK = 0.5
STALL = 0.2


class Site(NamedTuple):
    """A web process and a host, each with its own way to the broker."""

    broker: Broker
    to_web: Proxy
    to_host: Proxy
    web: Server
    host: Server


@pytest.fixture(autouse=True)
def _mended(site: Site) -> Iterator[None]:
    """Whatever a test has left behind."""
    yield
    site.broker.resume()
    both(Proxy.heal)(site)


@pytest.fixture(scope="module")
def site(gate: Gate) -> Iterator[Site]:
    with broker() as server, proxy(server.port) as one, proxy(server.port) as other:
        urls = [f"redis://127.0.0.1:{way.port}/0" for way in (one, other)]
        with host(urls[1]) as workers, web(urls[0]) as process:
            yield Site(server, one, other, process, workers)


class Fault(NamedTuple):
    """What happens, and how it is undone.

    Attributes:
        refuses: new requests are refused while it lasts.
    """

    breaks: Callable[[Site], object]
    mends: Callable[[Site], object]
    refuses: bool = True


def fill(site: Site) -> None:
    site.broker.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    site.broker.cli("CONFIG", "SET", "maxmemory", "1")


def both(act: Callable[[Proxy], object]) -> Callable[[Site], object]:
    return lambda site: (act(site.to_web), act(site.to_host))


FAULTS = {
    "killed": Fault(lambda site: site.broker.kill(), lambda site: site.broker.start()),
    "frozen": Fault(lambda site: site.broker.pause(), lambda site: site.broker.resume()),
    "full": Fault(fill, lambda site: site.broker.cli("CONFIG", "SET", "maxmemory", "0")),
    "blackholed for the web side": Fault(lambda site: site.to_web.blackhole(), lambda site: site.to_web.heal()),
    "stopped": Fault(lambda site: site.broker.stop(), lambda site: site.broker.start()),
    "refused": Fault(both(Proxy.refuse), both(Proxy.heal)),
    "refused for the web side": Fault(lambda site: site.to_web.refuse(), lambda site: site.to_web.heal()),
    "blackholed": Fault(both(Proxy.blackhole), both(Proxy.heal)),
}
QUICK = {"killed", "frozen", "full", "blackholed for the web side"}
"""One for each way in which a broker fails; the others in `make test-all`."""


def some(names: dict[str, Fault], quick: set[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some(FAULTS, QUICK))
def test_while_it_is_away_requests_are_refused_at_once_and_soon_after_they_are_served_again(
    site: Site, name: str
) -> None:
    fault = FAULTS[name]
    wait_served(site.web)
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        fault.breaks(site)
        callers.wait("backend-unavailable", number=50, after=broken + DETECTED)
        assert httpx.get(f"{site.web.url}/offloop/livez").status_code == 200
        mended = monotonic()
        fault.mends(site)
        first = callers.wait(after=mended)
        callers.wait(number=100, after=first.at + 1)
    # What was under way ends by its deadline, and nobody is told what cannot be known.
    live = callers.between(broken - TIMEOUT, broken + DETECTED)
    assert max(call.took for call in live) < TIMEOUT + SLACK
    assert {call.reason for call in live} <= {"ok", "backend-unavailable", "deadline-exceeded"}
    assert {call.started for call in live if call.reason == "deadline-exceeded"} <= {None, True}
    # From when it is known until it is over: at once.
    refused = [call for call in callers.between(broken + DETECTED) if call.at + call.took < mended]
    assert {call.reason for call in refused} == {"backend-unavailable"}
    assert {(call.status, call.started) for call in refused} == {(503, False)}
    assert sorted(call.took for call in refused)[int(0.99 * len(refused))] < AT_ONCE
    assert first.at - mended < SERVES_AGAIN
    assert set(callers.counted(first.at + 1)) == {"ok"}
    assert callers.stall() < STALL
    wait_until(lambda: held(site) == 0, "no place in the queue is held for what will never be known")


def held(site: Site) -> int:
    """Places in the web process' queue."""
    return int(httpx.get(f"{site.web.url}/offloop/status").json()["queue_depth"])


PASSING = {
    "drops its connections": Fault(lambda site: site.broker.cli("CLIENT", "KILL", "TYPE", "normal"), lambda _: None),
    "is emptied": Fault(lambda site: site.broker.cli("FLUSHALL"), lambda _: None),
    "drops its connections and forgets its scripts": Fault(
        lambda site: (site.broker.cli("SCRIPT", "FLUSH"), site.broker.cli("CLIENT", "KILL", "TYPE", "normal")),
        lambda _: None,
    ),
    "forgets its scripts": Fault(lambda site: site.broker.cli("SCRIPT", "FLUSH"), lambda _: None),
    "is cut off from the web side": Fault(lambda site: site.to_web.cut(), lambda _: None),
    "is cut off from the workers' side": Fault(lambda site: site.to_host.cut(), lambda _: None),
    "is cut off from both": Fault(both(Proxy.cut), lambda _: None),
}


@pytest.mark.parametrize("name", some(PASSING, {"drops its connections", "is emptied"}))
def test_what_passes_by_itself_harms_only_what_was_under_way(site: Site, name: str) -> None:
    wait_served(site.web)
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        PASSING[name].breaks(site)
        callers.wait(number=100, after=broken + DETECTED)
    live = callers.between(broken - TIMEOUT, broken + DETECTED)
    assert max(call.took for call in live) < TIMEOUT + SLACK
    assert {call.reason for call in live} <= {"ok", "backend-unavailable", "deadline-exceeded"}
    assert set(callers.counted(broken + DETECTED)) == {"ok"}
    assert callers.stall() < STALL
    wait_until(lambda: held(site) == 0, "no place in the queue is held for what will never be known")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["delayed by 300 ms for the web side", "delayed by 300 ms for the workers' side", "delayed for both"]
)
def test_a_long_way_to_it_delays_answers_and_nothing_else(site: Site, name: str) -> None:
    wait_served(site.web)
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        far = monotonic()
        if "workers" not in name:
            site.to_web.delay(0.3)
        if "web" not in name:
            site.to_host.delay(0.3)
        callers.wait(number=40, after=far)
        near = monotonic()
        both(Proxy.heal)(site)
        callers.wait(number=100, after=near + 1)
    assert set(callers.counted()) == {"ok"}
    assert min(call.took for call in callers.between(far + 0.1, near - 0.1)) > 0.3
    assert callers.stall() < STALL


@pytest.mark.slow
def test_a_narrow_way_to_it_delays_answers_and_nothing_else(site: Site) -> None:
    wait_served(site.web)
    with Callers(site.web.port, callers=2) as callers:
        callers.wait(number=30)
        narrow = monotonic()
        both(lambda way: way.slow(20_000))(site)
        callers.wait(number=30, after=narrow)
        wide = monotonic()
        both(Proxy.heal)(site)
        callers.wait(number=100, after=wide + 1)
    assert set(callers.counted(wide + 1)) == {"ok"}
    assert set(callers.counted()) <= {"ok", "deadline-exceeded", "expired-in-queue"}


def test_what_was_answered_while_the_web_process_was_cut_off_arrives(site: Site, gate: Gate) -> None:
    wait_served(site.web)
    with ThreadPoolExecutor(2) as callers:
        running = [callers.submit(post, site.web, "/patient", name="cut off", number=number) for number in range(2)]
        gate.wait("cut off", 2)
        site.to_web.refuse()
        wait_until(lambda: refuses(site.web), "it is known")
        gate.open("cut off")
        site.broker.until(lambda length: length == 0, "XLEN", REQUESTS)  # both have been answered, to nobody yet
        site.to_web.heal()
        assert [said(caller.result()) for caller in running] == [(200, "ok", True)] * 2


def test_a_streams_credits_that_were_lost_with_a_connection_are_given_again(site: Site, gate: Gate) -> None:
    """Whoever makes its parts waits for credits; cut off twice, a slow reader still gets every part."""
    wait_served(site.web)
    order, stream = {"number": 80, "name": "credited"}, {"accept": "text/event-stream"}
    with (
        httpx.Client(base_url=site.web.url, timeout=20) as client,
        client.stream("POST", "/parts", json=order, headers=stream) as answer,
    ):
        assert answer.status_code == 200
        gate.wait_note("credited makes 14")
        parts = 0
        for line in answer.iter_lines():
            if line.startswith("data:") and '"text"' in line:
                parts += 1
                if parts in (20, 60):
                    site.to_web.cut()
    assert parts == 80


@pytest.mark.slow
def test_a_broker_that_keeps_its_data_runs_what_waited_when_it_comes_back(gate: Gate) -> None:
    with (
        broker("--appendonly", "yes", "--appendfsync", "always") as server,
        host(server.url, workers=1) as workers,
        web(server.url) as process,
    ):
        wait_served(process)
        with ThreadPoolExecutor(6) as callers:
            held = [callers.submit(post, process, "/patient", name="kept") for _ in range(6)]
            gate.wait("kept")
            server.until(lambda length: length == 6, "XLEN", REQUESTS)
            server.kill()
            wait_until(lambda: "the broker cannot be reached: requests are refused" in process.log, "it is known")
            server.start()
            wait_until(lambda: not refuses(process), "it can be reached")
            for _ in held:
                gate.wait("kept")
                gate.open("kept")
            assert [said(each.result()) for each in held] == [(200, "ok", True)] * 6, workers.log


@pytest.mark.slow
def test_a_start_without_a_broker_waits_for_it_on_the_workers_side(gate: Gate) -> None:
    with broker() as server:
        server.stop()
        with pytest.raises(AssertionError), web(server.url):
            pass
        server.start()
        with host(server.url), web(server.url) as process:
            wait_served(process)


def test_a_broker_that_was_made_a_replica_is_left_for_the_one_that_its_address_leads_to(gate: Gate) -> None:
    """As in a failover that breaks no connection: whoever keeps one would stay with the replica for ever."""
    with broker() as old, broker() as new, proxy(old.port) as way:
        url = f"redis://127.0.0.1:{way.port}/0"
        with host(url, workers=1) as workers, web(url) as process:
            wait_served(process)
            old.cli("REPLICAOF", "127.0.0.1", new.port)
            wait_until(lambda: refuses(process), "it takes no writes")
            assert httpx.get(f"{process.url}/offloop/readyz").status_code == 503
            workers.wait_probe("/readyz", 503)
            way.lead(new.port)
            took = wait_until(lambda: post(process, "/work").status == 200, f"it serves again\n{workers.log}")
            assert took < SERVES_AGAIN
            assert process.log.count("takes no writes") < 3


def test_a_frozen_broker_loses_nothing_that_runs(site: Site, gate: Gate) -> None:
    """All leases run out while it is frozen; those who renew them come back before anybody takes their work away."""
    wait_served(site.web)
    with ThreadPoolExecutor(2) as callers:
        running = [callers.submit(post, site.web, "/again", name="frozen") for _ in range(2)]
        gate.wait("frozen", 2)
        site.broker.pause()
        frozen = monotonic()
        wait_until(lambda: refuses(site.web), "it is known")
        wait_until(lambda: monotonic() - frozen > LEASE, "the leases have run out")
        site.broker.resume()
        wait_until(lambda: not refuses(site.web), "it can be reached")
        reachable = monotonic()
        wait_until(lambda: monotonic() - reachable > GRACE + 2 * LEASE, "whoever looks for lost work has looked twice")
        gate.open("frozen")
        assert [said(caller.result()) for caller in running] == [(200, "ok", True)] * 2
    assert sum(note.startswith("frozen began") for note in gate.notes) == 2


def refuses(process: Server) -> bool:
    """Whether it refuses requests because of the broker; one that is refused anyway asks."""
    with Wire(process.port) as wire:
        wire.head("POST /work", content_type="image/png", content_length="0")
        return said(wire.answer())[1] == "backend-unavailable"

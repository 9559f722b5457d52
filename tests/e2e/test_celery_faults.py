"""Celery's Redis is stopped, killed, frozen, filled, emptied and cut off, under load: what callers see, and how long.

Every fault: requests are refused at once as soon as it can be known, whoever waits ends by the deadline, the event loop
goes on. How soon there is service again is Celery's: its worker tries again after 2, 4, 6 … seconds, or ends, which it
may do where it holds messages that it cannot give back, and is started again.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.programs.clustered import RECORD
from tests.e2e.test_broker_faults import AT_ONCE, DETECTED, SLACK, STALL, TIMEOUT, refuses, some
from tests.support.broker import Broker, broker
from tests.support.celery import Kept, both, celery, lied_about, wait_idle, web
from tests.support.cluster import Callers, post, said, wait_served, wait_until
from tests.support.gate import Gate
from tests.support.proxy import Proxy, proxy
from tests.support.server import Server

QUEUE = "test"
SERVES_AGAIN = 15.0
"""Seconds after the broker's return: an outage of some seconds, and Celery's next try after that."""


class Site(NamedTuple):
    """A web process and a worker, each with its own way to the broker."""

    broker: Broker
    to_web: Proxy
    to_worker: Proxy
    web: Server
    worker: Kept
    record: Path


@pytest.fixture(scope="module")
def site(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    record = tmp_path_factory.mktemp("faults") / "begun"
    with broker() as server, proxy(server.port) as one, proxy(server.port) as other:
        urls = [f"celery+redis://127.0.0.1:{way.port}/0" for way in (one, other)]
        options = {RECORD: record}
        with Kept(lambda: celery(urls[1], ready=False, **options)) as worker, web(urls[0]) as process:
            wait_idle(process, 2)
            yield Site(server, one, other, process, worker, record)


@pytest.fixture(autouse=True)
def _mended(site: Site) -> Iterator[None]:
    """Whatever a test has left behind."""
    site.record.unlink(missing_ok=True)
    yield
    site.broker.resume()
    site.to_web.heal()
    site.to_worker.heal()


class Fault(NamedTuple):
    """What happens, and how it is undone."""

    breaks: Callable[[Site], object]
    mends: Callable[[Site], object]


def fill(site: Site) -> None:
    site.broker.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    site.broker.cli("CONFIG", "SET", "maxmemory", "1")


FAULTS = {
    "killed": Fault(lambda site: site.broker.kill(), lambda site: site.broker.start()),
    "frozen": Fault(lambda site: site.broker.pause(), lambda site: site.broker.resume()),
    "full": Fault(fill, lambda site: site.broker.cli("CONFIG", "SET", "maxmemory", "0")),
    "stopped": Fault(lambda site: site.broker.stop(), lambda site: site.broker.start()),
    "refused": Fault(both(Proxy.refuse), both(Proxy.heal)),
    "refused for the web side": Fault(lambda site: site.to_web.refuse(), lambda site: site.to_web.heal()),
    "blackholed for the web side": Fault(lambda site: site.to_web.blackhole(), lambda site: site.to_web.heal()),
}
MET = {"ok", "backend-unavailable", "deadline-exceeded", "expired-in-queue"}
"""What callers may meet meanwhile."""
QUICK = {"killed"}
"""One in `make test`; the others in `make test-all`."""


@pytest.mark.parametrize("name", some(FAULTS, QUICK))  # type: ignore[arg-type]  # faults by name, whichever
def test_while_it_is_away_requests_are_refused_at_once_and_in_the_end_they_are_served_again(
    site: Site, name: str
) -> None:
    fault = FAULTS[name]
    wait_served(site.web)
    site.record.unlink()
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        fault.breaks(site)
        callers.wait("backend-unavailable", number=50, after=broken + DETECTED)
        assert httpx.get(f"{site.web.url}/offloop/livez").status_code == 200
        mended = monotonic()
        fault.mends(site)
        first = callers.wait(after=mended, timeout=SERVES_AGAIN + 5)
        callers.wait(number=100, after=first.at + 1)
    # What was under way ends by its deadline, and nobody is told what cannot be known.
    live = callers.between(broken - TIMEOUT, broken + DETECTED)
    assert max(call.took for call in live) < TIMEOUT + SLACK
    assert {call.reason for call in live} <= MET
    assert lied_about(callers, site.record) == set()
    assert {call.started for call in live if call.reason == "deadline-exceeded"} <= {None, True}
    # From when it is known until it is over: at once.
    refused = [call for call in callers.between(broken + DETECTED) if call.at + call.took < mended]
    assert {(call.status, call.reason, call.started) for call in refused} == {(503, "backend-unavailable", False)}
    assert sorted(call.took for call in refused)[int(0.99 * len(refused))] < AT_ONCE
    # Until its worker is back, what is accepted waits no longer than its deadline.
    waiting = callers.between(mended, first.at)
    assert {call.reason for call in waiting} <= {"ok", "backend-unavailable", "expired-in-queue"}
    assert max((call.took for call in waiting), default=0.0) < TIMEOUT + SLACK
    assert first.at - mended < SERVES_AGAIN
    assert set(callers.counted(first.at + TIMEOUT)) <= {"ok"}
    assert callers.stall() < STALL


PASSING = {
    "is emptied": Fault(lambda site: site.broker.cli("FLUSHALL"), lambda _: None),
    "is purged of the queue": Fault(lambda site: site.broker.cli("DEL", QUEUE), lambda _: None),
    "drops its connections": Fault(lambda site: site.broker.cli("CLIENT", "KILL", "TYPE", "normal"), lambda _: None),
    "forgets its scripts": Fault(
        lambda site: (site.broker.cli("SCRIPT", "FLUSH"), site.broker.cli("CLIENT", "KILL", "TYPE", "normal")),
        lambda _: None,
    ),
    "is cut off from the web side": Fault(lambda site: site.to_web.cut(), lambda _: None),
    "is cut off from the worker's side": Fault(lambda site: site.to_worker.cut(), lambda _: None),
    "is cut off from both": Fault(both(Proxy.cut), lambda _: None),
    "forgets its scripts and keeps its connections": Fault(
        lambda site: site.broker.cli("SCRIPT", "FLUSH"), lambda _: None
    ),
}


@pytest.mark.parametrize("name", some(PASSING, {"is emptied", "is purged of the queue"}))  # type: ignore[arg-type]
def test_what_passes_by_itself_harms_only_what_was_under_way(site: Site, name: str) -> None:
    wait_served(site.web)
    site.record.unlink()
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        PASSING[name].breaks(site)
        callers.wait(number=100, after=broken + DETECTED, timeout=SERVES_AGAIN)
        again = callers.wait(after=broken + DETECTED)
    assert max(call.took for call in callers.calls) < TIMEOUT + SLACK
    met = {call.reason for call in callers.between(broken - TIMEOUT, again.at)}
    assert met <= MET
    assert lied_about(callers, site.record) == set()
    assert set(callers.counted(again.at + TIMEOUT)) <= {"ok"}
    assert callers.stall() < STALL


def test_what_is_purged_never_begins_and_is_known_not_to_have(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    wait_served(site.web)
    held = [callers.submit(post, site.web, "/patient", name="purge") for _ in range(2)]
    gate.wait("purge", 2)
    gone = [callers.submit(post, site.web, "/patient", 1.0, name="purged") for _ in range(3)]
    site.broker.until(lambda length: length == 3, "LLEN", QUEUE)
    assert site.broker.cli("DEL", QUEUE) == 1
    assert [said(each.result()) for each in gone] == [(503, "expired-in-queue", False)] * 3
    gate.open("purge")
    assert [said(each.result()) for each in held] == [(200, "ok", True)] * 2
    assert gate.holds("purged") == 0


def test_what_was_answered_while_the_web_process_was_cut_off_arrives(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    wait_served(site.web)
    running = [callers.submit(post, site.web, "/patient", name="cut off") for _ in range(2)]
    gate.wait("cut off", 2)
    (inbox,) = site.broker.keys("test:inbox:*")
    before = site.broker.cli("XLEN", inbox)
    site.to_web.refuse()
    wait_until(lambda: refuses(site.web), "it is known")
    gate.open("cut off")
    site.broker.until(lambda length: length >= before + 2, "XLEN", inbox)
    site.to_web.heal()
    assert [said(caller.result()) for caller in running] == [(200, "ok", True)] * 2


@pytest.mark.slow
def test_what_began_unseen_is_not_said_never_to_have_begun(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    """It began while its web process was cut off, and the broker forgot: nobody can know, and nobody says so."""
    wait_served(site.web)
    held = [callers.submit(post, site.web, "/patient", 5.0, name="seen") for _ in range(2)]
    gate.wait("seen", 2)
    unseen = callers.submit(post, site.web, "/patient", 5.0, name="unseen")
    site.broker.until(lambda length: length == 1, "LLEN", QUEUE)
    site.to_web.refuse()
    wait_until(lambda: refuses(site.web), "it is known")
    gate.open("seen")
    gate.wait("unseen")
    site.broker.kill()
    site.broker.start()
    site.to_web.heal()
    wait_until(lambda: not refuses(site.web), "it can be reached")
    status, reason, started = said(unseen.result())
    assert (status, reason) == (504, "deadline-exceeded")
    assert started is not False
    gate.open("unseen")
    for each in held:
        assert said(each.result())[1] in {"ok", "deadline-exceeded"}


@pytest.mark.slow
def test_a_broker_that_went_and_came_while_it_ran_leaves_it_known_that_it_had_begun(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Its inbox has gone with the broker and is made again: what its worker says then arrives."""
    wait_served(site.web)
    running = callers.submit(post, site.web, "/patient", name="went")
    gate.wait("went")
    site.broker.kill()
    wait_until(lambda: refuses(site.web), "it is known")
    site.broker.start()
    wait_until(lambda: not refuses(site.web), "it can be reached")
    gate.open("went")
    assert said(running.result()) == (200, "ok", True)
    wait_served(site.web)


@pytest.mark.slow
def test_a_start_without_a_broker_fails_on_the_web_side_and_waits_in_the_worker(gate: Gate) -> None:
    with broker() as server:
        url = f"celery+{server.url}"
        server.stop()
        with pytest.raises(AssertionError, match="the broker cannot be reached"), web(url):
            pass
        with celery(url, ready=False) as worker:
            worker.wait_line("Cannot connect to")
            server.start()
            worker.wait_ready()
            with web(url) as process:
                wait_served(process)

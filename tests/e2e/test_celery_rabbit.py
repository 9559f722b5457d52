"""Celery over a RabbitMQ: what callers are told of every end, what is bounded, cut and left behind, and its faults.

The quick cases share a RabbitMQ, in namespaces of their own; whatever harms a broker has one of its own.
What has begun is known from the file that the nodes write.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import amqp
import httpx
import msgspec
import pytest
from celery import Celery
from websockets.sync.client import connect

from offloop.transports.celery.amqp import AmqpBroker
from offloop.transports.celery.letters import BESIDE, packed, unpacked
from offloop.transports.parcels import parcels
from tests.e2e.programs.clustered import RECORD
from tests.e2e.test_broker_faults import AT_ONCE, DETECTED, SLACK, STALL, TIMEOUT
from tests.e2e.test_celery_ends import GRACE, KNOWN, LOST, at_most_once
from tests.support.celery import (
    SECRET,
    Kept,
    Pool,
    Watcher,
    Worker,
    asked,
    both,
    celery,
    depth,
    events,
    lied_about,
    numbers,
    shown,
    status,
    streaming,
    wait_idle,
    web,
    where,
)
from tests.support.cluster import Callers, post, said, wait_served, wait_until
from tests.support.flower import flower
from tests.support.gate import Gate
from tests.support.proxy import Proxy, proxy
from tests.support.rabbit import Rabbit, anywhere, rabbit
from tests.support.server import Server
from tests.support.wire import Wire
from tests.unit.transports.celery.rig_amqp import administrator, cleared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

MIB = 2**20
RPC = "tests.e2e.programs.celeried_rpc_app:app"
OK = (200, "ok", True)
CONSUMERS = 2
"""What is idle here: a worker takes from two queues, and what it runs nobody can see."""


class Site(NamedTuple):
    """A web process, and a worker with two loops, in a namespace of their own."""

    url: str
    place: AmqpBroker
    web: Server
    worker: Worker
    record: Path

    @property
    def namespace(self) -> str:
        return self.place.namespace


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with anywhere() as url:
        yield url


@contextmanager
def a_place(url: str) -> Iterator[AmqpBroker]:
    """A namespace of its own, of which nothing is left."""
    place = AmqpBroker(url, f"test-{uuid4().hex[:8]}")
    try:
        yield place
    finally:
        cleared(place, None, "gpu")


@contextmanager
def a_site(url: str, folder: Path, *args: str, pool: Pool = "prefork", **more: Any) -> Iterator[Site]:
    record, marked = folder / "begun", f"celery+{url}"
    settings = {"kill_grace": GRACE, RECORD: record} | more
    with (
        a_place(url) as place,
        celery(marked, place.namespace, *args, pool=pool, ready=False, **settings) as worker,
        web(marked, place.namespace, **settings) as process,
    ):
        worker.wait_ready()
        wait_idle(process, CONSUMERS)
        yield Site(url, place, process, worker, record)


@pytest.fixture(scope="module")
def site(gate: Gate, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Signed; its worker sends events."""
    with a_site(url, tmp_path_factory.mktemp("rabbit"), "-E", signing_key="one,two") as site:
        yield site


def whole(site: Site) -> None:
    """Until the pool has both of its processes, and answers."""
    wait_until(lambda: len(site.worker.children()) == 2, "there are two")
    wait_served(site.web)


def waiting(place: AmqpBroker) -> int:
    """Messages in the queue that no worker has fetched."""
    with administrator(place) as admin:
        found: int = admin.queue_declare(place.namespace, passive=True).message_count
    return found


def held(site: Site, gate: Gate, callers: ThreadPoolExecutor, name: str) -> list[Any]:
    """Both loops stand at the gate under that name: their callers."""
    running = [callers.submit(post, site.web, "/patient", name=name) for _ in range(2)]
    gate.wait(name, 2)
    return running


def let_on(gate: Gate, name: str, running: list[Any]) -> None:
    """All that stand there, or will, are let on, and answered."""
    wait_until(lambda: gate.open(name) < 0 or all(each.done() for each in running), "all are answered")
    assert {said(each.result()) for each in running} == {OK}


# ---- answered


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_what_a_node_does_is_answered_as_in_every_mode(
    request: pytest.FixtureRequest, url: str, gate: Gate, tmp_path: Path, pool: Pool
) -> None:
    with ExitStack() as stack:
        if pool == "prefork":
            site: Site = request.getfixturevalue("site")
        else:
            site = stack.enter_context(a_site(url, tmp_path, pool=pool))
        with Callers(site.web.port, callers=6, total=200) as load:
            load.finish(stop=False)
        assert (load.faults, load.counted()) == ([], {"ok": 200})
        assert load.stall() < STALL
        runs = site.worker.children() or {site.worker.process.pid}
        assert {call.pid for call in load.calls} == runs
        occupied = post(site.web, "/failing", how="problem")
        assert said(occupied) == (409, "occupied", True)
        assert (occupied.json()["detail"], occupied.json()["by"]) == ("by somebody else", "them")
        for how in ("raise", "exit"):
            failed = post(site.web, "/failing", how=how)
            assert said(failed) == (500, "node-failed", True)
            assert b"secret" not in failed.body
        assert said(post(site.web, "/failing", how="silence")) == (500, "no-reply", True)
        assert {post(site.web, "/gpu").json()["pid"]} <= runs  # another queue
        large = httpx.post(f"{site.web.url}/parts", json={"number": 30, "unknown": "x" * 900_000}, timeout=20)
        assert (large.status_code, large.json()["number"]) == (200, 30)
        assert (site.worker.children() or {site.worker.process.pid}) == runs


def test_stream_messages_and_progress_come_while_the_node_runs(site: Site, gate: Gate) -> None:
    with streaming(site.web, "/steps", name="steps", number=3) as answer:
        numbers, progress = list[int](), list[Any]()
        for event in events(answer):
            if "done" in event:
                progress.append(event)
            elif "number" in event:
                numbers.append(event["number"])
                gate.wait(f"steps {event['number']}")  # it stands there still: this came before the next was made
                gate.open(f"steps {event['number']}")
    assert numbers == [1, 2, 3]
    assert progress[0]["total"] == 3
    gate.wait_note("steps closed")


def test_a_slow_reader_holds_up_its_stream_and_nothing_else(site: Site, gate: Gate) -> None:
    def made() -> int:
        return sum(note.startswith("slow makes") for note in list(gate.notes))

    with streaming(site.web, "/parts", number=400, name="slow") as answer:
        gate.wait_note("slow makes 14")
        still: list[int] = []
        wait_until(lambda: still.append(made()) or still[-50:] == [made()] * 50, "it makes no more")  # type: ignore[func-returns-value]
        assert made() < 400
        assert said(post(site.web, "/work")) == OK
        assert sum("text" in event for event in events(answer)) == 400


# ---- cancelled


def test_a_caller_who_leaves_is_noticed_by_the_node(site: Site, gate: Gate) -> None:
    with Wire(site.web.port) as wire:
        wire.post("/watchful", {"name": "left"})
        gate.wait_note("left began")
    gate.wait_note("left saw it")
    with streaming(site.web, "/endless", name="left too", number=1):
        gate.wait_note("left too began")
    gate.wait_note("left too saw it")


def test_what_waits_for_a_caller_who_has_left_does_not_begin(site: Site, gate: Gate) -> None:
    """Workers are told in time here: what runs in both of their processes hears of its own caller after that."""
    with Wire(site.web.port) as one, Wire(site.web.port) as other:
        for number, wire in enumerate((one, other)):
            wire.post("/watchful", {"name": f"busy {number}"})
            gate.wait_note(f"busy {number} began")
        with Wire(site.web.port) as leaves:
            leaves.post("/patient", {"number": 7001})
            wait_until(lambda: depth(site.web) == 1, "it waits")
        wait_until(lambda: depth(site.web) == 0, "it is given up")
    for number in range(2):
        gate.wait_note(f"busy {number} saw it")
    for _ in range(4):
        assert said(post(site.web, "/work", number=7002)) == OK  # it lay before these
    assert 7002 in numbers(site.record)
    assert 7001 not in numbers(site.record)


def test_a_socket_that_wants_one_no_more_keeps_no_other_from_being_answered(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    running = held(site, gate, callers, "called off")

    def say(id: str, **more: Any) -> None:
        socket.send(json.dumps({"id": id, **more}))

    def hear() -> Any:
        return json.loads(socket.recv(10))

    with connect(f"ws://127.0.0.1:{site.web.port}/called", close_timeout=1) as socket:
        say("off", data={"number": 7020})
        say("on", data={"number": 7021})
        wait_until(lambda: depth(site.web) == 2, "two wait")
        say("off", event="cancel")
        ended = hear()
        assert (ended["id"], ended["problem"]["reason"]) == ("off", "cancelled")
        assert ended["problem"]["started"] is None, "it cannot be known so soon"
        let_on(gate, "called off", running)
        answered = hear()
        assert (answered["id"], answered["event"]) == ("on", "reply")
    for _ in range(4):
        assert said(post(site.web, "/work")) == OK
    wait_until(lambda: depth(site.web) == 0, "nothing holds a place")
    assert 7021 in numbers(site.record)


# ---- bounded, timed


def test_what_waits_is_bounded_for_each_web_process_and_withdrawn_at_its_deadline(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with web(f"celery+{site.url}", site.namespace, queue_limit=2, signing_key="one") as narrow:
        running = held(site, gate, callers, "bounded")
        queued = [callers.submit(post, narrow, "/patient", 0.7, number=7003) for _ in range(2)]
        wait_until(lambda: depth(narrow) == 2, "two wait")
        full = post(narrow, "/patient", number=7003)
        assert said(full) == (503, "queue-full", False)
        assert full.json()["retry_safe"] is True
        other = callers.submit(post, site.web, "/patient", number=7004)
        wait_until(lambda: depth(site.web) == 1, "the other web process has room of its own")
        late = callers.submit(post, site.web, "/brief", number=7003)
        expired = (503, "expired-in-queue", False)
        assert [said(each.result()) for each in (*queued, late)] == [expired] * 3
        assert depth(narrow) == 0
        let_on(gate, "bounded", running)
        assert said(other.result()) == OK
        for _ in range(4):
            assert said(post(site.web, "/work")) == OK  # all that lay before these has been dealt with
        wait_until(lambda: waiting(site.place) == 0, "nothing is left in the queue")
        assert 7004 in numbers(site.record)
        assert 7003 not in numbers(site.record)


def test_a_deadline_passes_while_it_runs(site: Site, gate: Gate) -> None:
    at = monotonic()
    assert said(post(site.web, "/brief", name="brief")) == (504, "deadline-exceeded", True)
    assert monotonic() - at < 0.4 + 0.3
    gate.wait("brief")
    gate.open("brief")  # its late reply finds nobody
    assert said(post(site.web, "/work")) == OK


def test_a_drain_that_runs_out_of_time_cuts_what_waits_and_what_runs(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with web(f"celery+{site.url}", site.namespace, drain_timeout=0.5, signing_key="one") as process:
        wait_served(process)
        running = [callers.submit(post, process, "/patient", name="cut") for _ in range(2)]
        gate.wait("cut", 2)
        queued = callers.submit(post, process, "/patient", number=7005)
        wait_until(lambda: depth(process) == 1, "one waits")
        told = monotonic()
        process.signal(signal.SIGTERM)
        status, reason, started = said(queued.result())
        # The gate is shut within milliseconds; on a machine that is slow at that moment, nobody knows.
        assert (status, reason, started) in {(503, "drain-cut", False), (504, "drain-cut", None)}
        assert [said(each.result()) for each in running] == [(504, "drain-cut", True)] * 2
        assert process.wait() == -signal.SIGTERM
        assert monotonic() - told < 0.5 + 1.5
        gate.open("cut")
        wait_served(site.web)
        assert 7005 not in numbers(site.record)


# ---- a child of the pool, and a worker, that are killed


def test_of_killed_children_what_had_begun_is_lost_or_begins_again(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Both at once; each is answered for as soon as Celery knows."""
    once = callers.submit(post, site.web, "/patient", name="once", number=7006)
    twice = callers.submit(post, site.web, "/again", name="twice", number=7007)
    gate.wait("once")
    gate.wait("twice")
    killed = monotonic()
    for name in ("once", "twice"):
        os.kill(where(gate, name)[0], signal.SIGKILL)
    assert said(once.result()) == LOST
    gate.wait("twice", 2)  # one of them is the dead one's
    assert monotonic() - killed < KNOWN
    gate.open("twice")
    answer = twice.result()
    assert said(answer) == OK
    first, second = where(gate, "twice")
    assert answer.json()["pid"] == second != first
    whole(site)
    begun = Counter(numbers(site.record))
    assert (begun[7006], begun[7007]) == (1, 2)


def test_the_other_child_goes_on(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    whole(site)
    struck, spared = [callers.submit(post, site.web, "/patient", name=name) for name in ("struck", "spared")]
    gate.wait("struck")
    gate.wait("spared")
    killed = monotonic()
    os.kill(where(gate, "struck")[0], signal.SIGKILL)
    assert said(struck.result()) == LOST
    assert monotonic() - killed < KNOWN
    gate.open("spared")
    assert said(spared.result()) == OK
    whole(site)


def test_a_stream_whose_child_is_killed_ends_and_does_not_begin_again(site: Site, gate: Gate) -> None:
    whole(site)
    app = Celery(broker=site.url, set_as_current=False)
    with streaming(site.web, "/steps", name="torn", number=3) as answer:
        gate.wait("torn 1")
        inspect = app.control.inspect(destination=[site.worker.name], timeout=5)
        ((running,),) = asked(inspect.active, "what runs").values()
        os.kill(running["worker_pid"], signal.SIGKILL)
        text = "".join(answer.iter_text())
    assert '"number":1' in text.replace(" ", "")
    assert "worker-lost" in text
    whole(site)
    assert "torn closed" not in gate.notes
    app.close()


def test_what_is_revoked_before_it_runs_is_refused(
    url: str, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    app = Celery(broker=url, set_as_current=False)
    with a_site(url, tmp_path, "--prefetch-multiplier", "2") as site:
        running = held(site, gate, callers, "ahead")
        revoked = callers.submit(post, site.web, "/patient", name="revoked", number=7010)
        wait_until(lambda: depth(site.web) == 1 and waiting(site.place) == 0, "it is fetched")
        inspect = app.control.inspect(destination=[site.worker.name], timeout=5)

        def waits() -> list[Any]:
            return list((inspect.reserved() or {}).get(site.worker.name, []))

        (reserved,) = asked(waits, "what waits")
        app.control.revoke(reserved["id"], destination=[site.worker.name], reply=True, timeout=5)
        let_on(gate, "ahead", running)
        assert said(revoked.result()) == (503, "backend-unavailable", False)
        assert said(post(site.web, "/work")) == OK
        assert 7010 not in numbers(site.record)
    app.close()


@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_what_is_revoked_and_terminated_while_it_runs_is_lost(
    site: Site, gate: Gate, callers: ThreadPoolExecutor, how: str
) -> None:
    whole(site)
    app = Celery(broker=site.url, set_as_current=False)
    over = callers.submit(post, site.web, "/patient", name=f"over by {how}")
    gate.wait(f"over by {how}")
    inspect = app.control.inspect(destination=[site.worker.name], timeout=5)
    ((running,),) = asked(inspect.active, "what runs").values()
    app.control.revoke(running["id"], terminate=True, signal=how, destination=[site.worker.name])
    assert said(over.result()) == LOST
    whole(site)
    app.close()


@pytest.mark.slow
def test_a_node_that_outlasts_its_deadline_and_the_grace_is_killed_and_replaced(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    whole(site)
    asked = callers.submit(post, site.web, "/hang", name="hang")
    gate.wait("hang")
    (pid,) = where(gate, "hang")
    assert said(asked.result()) == (504, "deadline-exceeded", True)
    wait_until(lambda: pid not in site.worker.children(), "it is gone")
    whole(site)


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_what_a_killed_worker_had_begun_is_lost_soon_and_what_it_had_fetched_runs_elsewhere(
    url: str, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path, pool: Pool
) -> None:
    """The broker sees it at once, and gives all to the other: as what may have begun."""
    with a_site(url, tmp_path, "--prefetch-multiplier", "2", pool=pool) as site:
        once = callers.submit(post, site.web, "/patient", name="first", number=1)
        twice = callers.submit(post, site.web, "/again", name="second", number=2)
        gate.wait("first")
        gate.wait("second")
        fetched = [callers.submit(post, site.web, "/patient", number=number) for number in (3, 4)]
        wait_until(lambda: depth(site.web) == 2 and waiting(site.place) == 0, "they are fetched")
        with celery(f"celery+{url}", site.namespace, pool=pool, **{RECORD: site.record}):
            struck = monotonic()
            site.worker.strike()
            assert said(once.result()) == LOST
            assert monotonic() - struck < KNOWN
            assert [said(each.result()) for each in fetched] == [OK] * 2
            gate.wait("second", 2)  # idempotent
            gate.open("second")
            assert said(twice.result()) == OK
            wait_served(site.web)
        assert {number: count for number, count in Counter(numbers(site.record)).items() if number} == {
            1: 1, 2: 2, 3: 1, 4: 1
        }  # fmt: skip


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.slow)])
def test_what_a_worker_that_is_cut_off_holds_runs_elsewhere_and_not_there_as_well(
    url: str, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path, pool: Pool
) -> None:
    """It is well, and does not know: when it is let on, and the broker is there again, it goes on with what it has."""
    record, marked = tmp_path / "begun", f"celery+{url}"
    alone: dict[str, Any] = {"pool": pool, "concurrency": 1, RECORD: record}
    with a_place(url) as place, proxy(place.address.port) as way:
        cut = f"celery+amqp://guest:guest@127.0.0.1:{way.port}//"
        with (
            celery(cut, place.namespace, "--prefetch-multiplier", "4", **alone) as worker,
            web(marked, place.namespace) as process,
        ):
            wait_served(process)
            running = callers.submit(post, process, "/patient", name="hold", number=1)
            gate.wait("hold")
            fetched = [callers.submit(post, process, "/patient", number=number) for number in (2, 3)]
            wait_until(lambda: depth(process) == 2 and waiting(place) == 0, "they are fetched")
            ended = worker.log.count("succeeded in")
            way.refuse()
            with celery(marked, place.namespace, **alone) as other:
                assert said(running.result()) == LOST
                answers = [each.result() for each in fetched]
                assert [said(each) for each in answers] == [OK] * 2
                runs = other.children() or {other.process.pid}
                assert {each.json()["pid"] for each in answers} <= runs
                assert other.stop() == 0
            way.heal()
            gate.open("hold")
            expected = 3 if pool == "threads" else 1  # of a prefork pool Celery takes back what waits in it
            wait_until(lambda: worker.log.count("succeeded in") >= ended + expected, "it has gone on", 30)
            wait_served(process)
        assert {number: count for number, count in Counter(numbers(record)).items() if number} == {1: 1, 2: 1, 3: 1}


@pytest.mark.slow
def test_a_killed_worker_without_another_is_answered_for_by_the_deadline(
    url: str, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with a_site(url, tmp_path) as site:
        running = [callers.submit(post, site.web, "/patient", 2.0, name="alone", number=number) for number in (1, 2)]
        gate.wait("alone", 2)
        behind = callers.submit(post, site.web, "/patient", 2.0, number=3)
        wait_until(lambda: depth(site.web) == 1, "it waits")
        site.worker.strike()
        assert [said(each.result()) for each in running] == [(504, "deadline-exceeded", True)] * 2
        assert said(behind.result()) == (503, "expired-in-queue", False)
        with celery(f"celery+{url}", site.namespace, **{RECORD: site.record}):
            wait_served(site.web)
            wait_until(lambda: waiting(site.place) == 0, "what it had has been dealt with")
            for _ in range(4):
                assert said(post(site.web, "/work")) == OK
        assert {number: count for number, count in Counter(numbers(site.record)).items() if number} == {1: 1, 2: 1}


@pytest.mark.slow
def test_a_warm_shutdown_finishes_what_runs_and_leaves_what_waits(
    url: str, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with a_site(url, tmp_path) as site:
        running = held(site, gate, callers, "last")
        behind = callers.submit(post, site.web, "/patient", number=5)
        wait_until(lambda: depth(site.web) == 1, "it waits")
        site.worker.signal(signal.SIGTERM)
        site.worker.wait_line("Warm shutdown")
        with celery(f"celery+{url}", site.namespace, **{RECORD: site.record}):
            assert said(behind.result()) == OK
            let_on(gate, "last", running)
            assert site.worker.wait() == 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_request_runs_twice_however_children_die(url: str, gate: Gate, tmp_path: Path) -> None:
    try:
        at_most_once(url, tmp_path, seed=3, requests=1200)
    finally:
        cleared(AmqpBroker(url, "once-3"), None, "gpu")


# ---- watched, signed


def test_who_watches_sees_requests_and_no_payload(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    app = Celery(broker=site.url, set_as_current=False)
    with Watcher(app) as watcher:
        first = callers.submit(post, site.web, "/patient", name="watched", secret=SECRET)
        gate.wait("watched")
        inspect = app.control.inspect(destination=[site.worker.name], timeout=5)
        found = {how: asked(getattr(inspect, how), how) for how in ("active", "stats", "registered", "report", "conf")}
        (active,) = found["active"][site.worker.name]
        assert (active["name"], active["args"]) == (f"{site.namespace}.run", ["patient"])
        found["queried"] = asked(lambda: inspect.query_task(active["id"]), "of one")
        others = [callers.submit(post, site.web, "/patient", name="watched", secret=SECRET) for _ in range(4)]
        gate.wait("watched", 2)
        found["reserved"] = asked(inspect.reserved, "reserved")
        let_on(gate, "watched", [first, *others])
        ended = watcher.wait("task-succeeded", lambda event: event["uuid"] == active["id"])
        assert ended["hostname"] == site.worker.name
        assert watcher.wait("task-received", lambda event: event["uuid"] == active["id"])["name"] == active["name"]
    app.close()
    for what in (found, watcher.events, site.worker.log, site.web.log):
        assert not shown(repr(what))


@pytest.mark.slow
def test_flower_shows_requests_and_no_payload(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    app = Celery(broker=site.url, set_as_current=False)
    with flower(site.url, site.worker) as watcher:
        held = callers.submit(post, site.web, "/patient", name="flower", secret=SECRET)
        gate.wait("flower")
        inspect = app.control.inspect(destination=[site.worker.name], timeout=5)
        ((active,),) = asked(inspect.active, "what runs").values()
        running = watcher.wait_state(active["id"], "STARTED")
        assert (running["name"], running["args"]) == (f"{site.namespace}.run", "('patient',)")
        while_it_runs = watcher.pages(site.worker, active["id"])
        gate.open("flower")
        assert said(held.result()) == (200, "ok", True)
        ended = watcher.wait_state(active["id"], "SUCCESS")
        for text in (while_it_runs, watcher.pages(site.worker, active["id"])):
            assert active["id"] in text
            assert not shown(text)
        assert not shown(repr((running, ended)))
    app.close()


@pytest.mark.parametrize(
    ("keys", "why"), [(("guess",), "its signature does not fit"), ((), "it is not signed")], ids=["guessed", "none"]
)
def test_what_was_not_signed_with_a_key_of_ours_does_not_run(
    site: Site, gate: Gate, callers: ThreadPoolExecutor, keys: tuple[str, ...], why: str
) -> None:
    running = held(site, gate, callers, f"forged {keys}")
    with ExitStack() as stack:
        admin = stack.enter_context(administrator(site.place))
        real = [callers.submit(post, site.web, "/patient", number=7008) for _ in range(3)]
        wait_until(lambda: waiting(site.place) > 0, "one lies in the queue")
        message = admin.basic_get(site.namespace)
        body = json.loads(message.body)
        parcel = parcels((), MIB).read("", unpacked(body[2][BESIDE])[:2])
        forged = msgspec.structs.replace(parcel.envelope, payload=b'{"number": 7009}', rid=f"{parcel.envelope.rid}f")
        fields = parcels(keys, MIB).write(site.namespace, msgspec.structs.replace(parcel, envelope=forged))
        body[2][BESIDE] = packed(fields)
        admin.basic_publish(amqp.Message(json.dumps(body), **message.properties), routing_key=site.namespace)
        admin.basic_reject(message.delivery_tag, requeue=True)
    let_on(gate, f"forged {keys}", running)
    assert {said(each.result()) for each in real} == {OK}
    site.worker.wait_line(f"a request is dropped: {why}")
    assert 7008 in numbers(site.record)
    assert 7009 not in numbers(site.record)


def test_a_forged_reply_answers_nobody(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    running = callers.submit(post, site.web, "/patient", name="answered")
    gate.wait("answered")
    before = status(site.web)["entries_refused"]
    site.worker.wait_line(rf"{site.namespace}\.run\[")
    found = re.search(rf"{site.namespace}\.run\[([0-9a-f]+)-", site.worker.log)
    assert found is not None
    with administrator(site.place) as admin:
        for body in (b"\x91\x01", b"no message of ours"):
            admin.basic_publish(amqp.Message(body), routing_key=site.place.inbox(found.group(1)))

    wait_until(lambda: status(site.web)["entries_refused"] == before + 2, "they were not believed")
    gate.open("answered")
    assert said(running.result()) == OK


# ---- an app that people have


def test_their_own_tasks_results_come_by_rpc_as_before(
    url: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs is a pool of threads; it is asked for both in one go."""
    queue = f"shop-{uuid4().hex[:8]}"
    monkeypatch.setenv("TEST_CELERY", url)
    monkeypatch.setenv("TEST_QUEUE", queue)
    from tests.e2e.programs import celeried_rpc_app as shop

    more: dict[str, Any] = {"app": RPC, "TEST_CELERY": url, "TEST_QUEUE": queue}
    with a_place(url) as place:
        name, marked = place.namespace, f"celery+{url}"
        args = ("-Q", f"{queue},{name},{name}.gpu")
        with celery(marked, name, *args, pool="threads", ready=False, **more) as worker, web(marked, name) as process:
            worker.wait_ready()
            wait_idle(process, CONSUMERS)
            with Callers(process.port, callers=3) as load:
                sums = [shop.add.delay(number, 1) for number in range(20)]
                assert [each.get(timeout=20) for each in sums] == list(range(1, 21))
                with pytest.raises(ValueError, match="as it is meant to"):
                    shop.fail.delay().get(timeout=20)
                load.wait(number=50)
            assert load.counted().keys() == {"ok"}
            assert {call.pid for call in load.calls} == {worker.process.pid}
            assert said(post(process, "/failing", how="problem")) == (409, "occupied", True)
        with administrator(place) as admin:
            admin.queue_delete(queue)
            admin.exchange_delete(queue)
    shop.app.close()


# ---- what is left


@pytest.mark.slow
def test_nothing_is_left_behind_but_celerys_queues_and_durable_exchanges(
    own: Rabbit, gate: Gate, tmp_path: Path
) -> None:
    before = {kind: set(names(own, kind)) for kind in ("queues", "exchanges")}
    place = AmqpBroker(own.url, "left")
    with celery(f"celery+{own.url}", "left") as worker, web(f"celery+{own.url}", "left") as process:
        wait_served(process)
        with Callers(process.port, total=100) as load:
            load.finish(stop=False)
        assert said(post(process, "/failing", how="kill")) == LOST
        with Wire(process.port) as wire:
            wire.post("/watchful", {"name": "last"})
            gate.wait_note("last began")
        gate.wait_note("last saw it")
        assert said(post(process, "/hang", name="late"))[0] == 504
        gate.open("late")
        while_up = set(names(own, "queues")) - before["queues"]
        assert sum(name.startswith("left:inbox:") for name in while_up) == 1
        assert sum(name.startswith("left:orders:") for name in while_up) == 2
        process.signal(signal.SIGTERM)
        process.wait()
        assert worker.stop() == 0
    wait_until(lambda: set(names(own, "queues")) - before["queues"] == {"left", "left.gpu"}, "the queues are gone")
    assert set(names(own, "exchanges")) - before["exchanges"] <= {
        "left", "left.gpu", "left:gate", "left:withdrawn", "celeryev", "celery.pidbox",
    }  # fmt: skip
    assert waiting(place) == 0
    cleared(place, None, "gpu")


@pytest.mark.slow
def test_a_body_that_is_too_large_for_the_broker_fails_alone(
    own: Rabbit, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    own.ctl("eval", "application:set_env(rabbit, max_message_size, 300000).")
    try:
        with a_site(own.url, tmp_path) as site:
            running = callers.submit(post, site.web, "/patient", name="meanwhile")
            gate.wait("meanwhile")
            large = callers.submit(
                httpx.post, f"{site.web.url}/parts", json={"number": 1, "unknown": "x" * 600_000}, timeout=20
            )
            others = [said(post(site.web, "/work")) for _ in range(40)]
            answer = large.result()
            assert (answer.status_code, answer.json()["started"]) == (503, False)
            assert answer.json()["reason"] == "backend-unavailable"
            gate.open("meanwhile")
            assert {*others, said(running.result())} == {OK}
            site.web.wait_line("the broker refuses requests: it refuses the message: .*message size")
            assert "cannot be reached" not in site.web.log
    finally:
        own.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")


def names(broker: Rabbit, kind: str) -> list[str]:
    """Of all queues, or exchanges."""
    return broker.ctl(f"list_{kind}", "name").splitlines()[1:]


# ---- its faults


class Faulty(NamedTuple):
    """A web process and a worker that a supervisor keeps, each with its own way to the broker."""

    broker: Rabbit | None
    place: AmqpBroker
    to_web: Proxy
    to_worker: Proxy
    web: Server
    worker: Kept
    record: Path

    def own(self) -> Rabbit:
        assert self.broker is not None
        return self.broker

    def heal(self) -> None:
        if self.broker is not None:
            self.broker.resume()
        self.to_web.heal()
        self.to_worker.heal()


class Fault(NamedTuple):
    """What happens, how it is undone, and within how many seconds after that there is service again.

    It is ours to be back in five; a worker of Celery's tries to connect after 2, 4, 6 … seconds.
    """

    breaks: Callable[[Faulty], object]
    mends: Callable[[Faulty], object]
    back: float = 5.0


RETRIES = 15.0
FAULTS = {
    "stopped": Fault(lambda site: site.own().stop(), lambda site: site.own().start(), RETRIES),
    "killed": Fault(lambda site: site.own().kill(), lambda site: site.own().start(), RETRIES),
    "paused": Fault(lambda site: site.own().pause(), lambda site: site.own().resume()),
    "short of memory": Fault(
        lambda site: site.own().short_of_memory(True), lambda site: site.own().short_of_memory(False)
    ),
    "refused": Fault(both(Proxy.refuse), both(Proxy.heal), RETRIES),
    "refused for the web side": Fault(lambda site: site.to_web.refuse(), lambda site: site.to_web.heal()),
    "blackholed for the web side": Fault(lambda site: site.to_web.blackhole(), lambda site: site.to_web.heal()),
    "blackholed": Fault(both(Proxy.blackhole), both(Proxy.heal)),
}
MET = {"ok", "backend-unavailable", "deadline-exceeded", "expired-in-queue", "worker-lost"}
"""What callers may meet meanwhile: who is given what a worker had when it was cut off says that it is lost."""


@pytest.fixture(scope="module")
def own() -> Iterator[Rabbit]:
    with rabbit() as one:
        yield one


@contextmanager
def a_faulty_site(broker: Rabbit | None, url: str, folder: Path) -> Iterator[Faulty]:
    record = folder / "begun"
    with a_place(url) as place, proxy(place.address.port) as one, proxy(place.address.port) as other:
        urls = [f"celery+amqp://guest:guest@127.0.0.1:{way.port}//" for way in (one, other)]
        options = {RECORD: record}
        with (
            Kept(lambda: celery(urls[1], place.namespace, ready=False, **options)) as worker,
            web(urls[0], place.namespace) as process,
        ):
            wait_idle(process, CONSUMERS)
            site = Faulty(broker, place, one, other, process, worker, record)
            yield site
            site.heal()


@pytest.fixture(scope="module")
def faulty(own: Rabbit, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with a_faulty_site(own, own.url, tmp_path_factory.mktemp("faults")) as site:
        yield site


@pytest.fixture
def mended(faulty: Faulty) -> Iterator[Faulty]:
    """It serves, and whatever a test leaves behind is undone."""
    wait_served(faulty.web)
    faulty.record.unlink(missing_ok=True)
    yield faulty
    faulty.heal()


def goes_and_comes(site: Faulty, fault: Fault) -> None:
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        fault.breaks(site)
        since = monotonic()  # to bring it about may take a while
        callers.wait("backend-unavailable", number=50, after=since + DETECTED)
        assert httpx.get(f"{site.web.url}/offloop/livez").status_code == 200
        mends = monotonic()
        fault.mends(site)
        mended = monotonic()
        first = callers.wait(after=mends, timeout=RETRIES + 5)
        callers.wait(number=100, after=first.at + 1)
    # What was under way ends by its deadline, and nobody is told what cannot be known.
    live = callers.between(broken - TIMEOUT, since + DETECTED)
    assert max(call.took for call in live) < TIMEOUT + SLACK
    assert {call.reason for call in live} <= MET
    assert lied_about(callers, site.record) == set()
    assert {call.started for call in live if call.reason == "deadline-exceeded"} <= {None, True}
    # From when it is known until it is over: at once.
    refused = [call for call in callers.between(since + DETECTED) if call.at + call.took < mends]
    assert {(call.status, call.reason, call.started) for call in refused} == {(503, "backend-unavailable", False)}
    assert sorted(call.took for call in refused)[int(0.99 * len(refused))] < AT_ONCE
    # Until its worker is back, what is accepted waits no longer than its deadline.
    waiting = callers.between(mends, first.at)
    assert {call.reason for call in waiting} <= MET
    assert max((call.took for call in waiting), default=0.0) < TIMEOUT + SLACK
    assert first.at - mended < fault.back
    assert [call for call in callers.between(first.at + TIMEOUT) if call.reason != "ok"] == []
    assert callers.stall() < STALL


def test_while_it_cannot_be_reached_requests_are_refused_at_once_and_then_served_again(
    url: str, gate: Gate, tmp_path: Path
) -> None:
    """Without harm to the broker, which others use."""
    with a_faulty_site(None, url, tmp_path) as site:
        goes_and_comes(site, FAULTS["refused"])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FAULTS)
def test_while_it_is_away_requests_are_refused_at_once_and_in_the_end_they_are_served_again(
    mended: Faulty, name: str
) -> None:
    goes_and_comes(mended, FAULTS[name])


PASSING: dict[str, Callable[[Faulty], object]] = {
    "is purged of the queue": lambda site: site.own().ctl("purge_queue", site.place.namespace),
    "loses the queue": lambda site: site.own().ctl("delete_queue", site.place.namespace),
    "closes its connections": lambda site: site.own().ctl("close_all_connections", "for a test"),
    "is cut off from the web side": lambda site: site.to_web.cut(),
    "is cut off from the worker's side": lambda site: site.to_worker.cut(),
    "is cut off from both": both(Proxy.cut),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_by_itself_harms_only_what_was_under_way(mended: Faulty, name: str) -> None:
    site = mended
    with Callers(site.web.port) as callers:
        callers.wait(number=30)
        broken = monotonic()
        PASSING[name](site)
        since = monotonic()
        callers.wait(number=100, after=since + DETECTED, timeout=RETRIES)
        again = callers.wait(after=since + DETECTED)
    assert max(call.took for call in callers.calls) < TIMEOUT + SLACK
    assert {call.reason for call in callers.between(broken - TIMEOUT, again.at)} <= MET
    assert lied_about(callers, site.record) == set()
    assert [call for call in callers.between(again.at + TIMEOUT) if call.reason != "ok"] == [], site.worker.log
    assert callers.stall() < STALL


def test_what_is_purged_never_begins_and_is_known_not_to_have(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    running = held(site, gate, callers, "purge")
    gone = [callers.submit(post, site.web, "/patient", 0.7, number=7010) for _ in range(3)]
    wait_until(lambda: waiting(site.place) == 3, "three wait")
    with administrator(site.place) as admin:
        assert admin.queue_purge(site.namespace) == 3
    assert [said(each.result()) for each in gone] == [(503, "expired-in-queue", False)] * 3
    let_on(gate, "purge", running)
    assert said(post(site.web, "/work")) == OK
    assert 7010 not in numbers(site.record)


@pytest.mark.slow
def test_what_waited_while_its_web_process_was_cut_off_is_not_lied_about(
    mended: Faulty, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Its inbox has gone with its connection: nothing can begin for it meanwhile, and that cannot be known."""
    site = mended
    running = [callers.submit(post, site.web, "/patient", name="seen") for _ in range(2)]
    gate.wait("seen", 2)
    unseen = callers.submit(post, site.web, "/patient", 3.0, number=7011)
    wait_until(lambda: waiting(site.place) == 1, "it waits")
    site.to_web.refuse()
    wait_until(lambda: said(post(site.web, "/work", 0.2))[1] == "backend-unavailable", "it is known")
    gate.open("seen")
    wait_until(lambda: waiting(site.place) == 0, "it is taken")
    site.to_web.heal()
    status, reason, started = said(unseen.result())
    assert (status, reason) in {(504, "deadline-exceeded"), (503, "expired-in-queue")}
    assert started is None or started is (7011 in numbers(site.record))
    for each in running:  # what they said found no inbox
        assert said(each.result()) == (504, "deadline-exceeded", True)
    wait_served(site.web)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_broker_that_went_and_came_while_it_ran_is_told_its_outcome(
    mended: Faulty, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Its inbox has gone with the broker and is made again: what its worker says then arrives."""
    site = mended
    running = callers.submit(post, site.web, "/patient", name="went")
    gate.wait("went")
    site.own().kill()
    wait_until(lambda: said(post(site.web, "/work", 0.2))[1] == "backend-unavailable", "it is known")
    site.own().start()
    wait_until(lambda: said(post(site.web, "/brief"))[1] != "backend-unavailable", "it can be reached")
    gate.open("went")
    assert said(running.result()) == OK
    wait_served(site.web)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_start_without_a_broker_fails_on_the_web_side_and_waits_in_the_worker(gate: Gate) -> None:
    with rabbit() as server:
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

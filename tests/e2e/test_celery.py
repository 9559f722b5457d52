"""Celery as the engine: its workers answer, bound, stream and cancel requests, beside what else they do.

How a request ends otherwise is in `test_celery_ends`, what becomes of it without a broker in `test_celery_faults`.
"""

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import msgspec
import pytest
from celery import Celery

from offloop.transports.celery.letters import BESIDE, packed, queue_of, unpacked
from offloop.transports.parcels import parcels
from offloop.transports.redis.names import Names
from offloop.transports.redis.wire import Line, address_of
from tests.e2e.programs.clustered import FIELD, RECORD
from tests.support.broker import Broker, broker
from tests.support.celery import (
    SECRET,
    THEIRS,
    Pool,
    Watcher,
    Worker,
    asked,
    celery,
    depth,
    events,
    numbers,
    shown,
    status,
    streaming,
    wait_idle,
    web,
)
from tests.support.cluster import Callers, post, said, wait_served, wait_until
from tests.support.flower import flower
from tests.support.gate import Gate
from tests.support.server import Server
from tests.support.wire import Wire

STALL = 0.2
MIB = 2**20


class Site(NamedTuple):
    """A web process, and a worker with two loops, in a namespace of their own."""

    broker: Broker
    url: str
    namespace: str
    web: Server
    worker: Worker
    app: Celery


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@contextmanager
def a_site(redis: Broker, pool: Pool, *args: str, namespace: str = "", **more: Any) -> Iterator[Site]:
    url, namespace = f"celery+{redis.url}", namespace or f"test-{uuid4().hex[:8]}"
    with celery(url, namespace, *args, pool=pool, **more) as worker, web(url, namespace) as process:
        wait_idle(process, 2)
        yield Site(redis, url, namespace, process, worker, Celery(broker=redis.url, set_as_current=False))


@pytest.fixture(scope="module", params=["prefork", "threads"])
def site(request: pytest.FixtureRequest, gate: Gate, redis: Broker) -> Iterator[Site]:
    with a_site(redis, request.param, "-E") as site:
        yield site


# ---- answered


def test_a_load_is_answered_and_the_event_loop_goes_on(site: Site) -> None:
    with Callers(site.web.port, callers=6, total=300) as load:
        load.finish(stop=False)
    assert not load.faults
    assert load.counted() == {"ok": 300}
    assert load.stall() < STALL
    runs = site.worker.children() or {site.worker.process.pid}
    assert {call.pid for call in load.calls} <= runs
    assert len({call.pid for call in load.calls}) == len(runs)


def test_large_bodies_go_both_ways(site: Site) -> None:
    order = {"number": 30, "name": "large"}  # thirty parts of 64 KiB
    answer = httpx.post(f"{site.web.url}/parts", json=order | {"unknown": "x" * 900_000}, timeout=20)
    assert (answer.status_code, answer.json()["number"]) == (200, 30)


def test_services_are_built_once_for_each_process(site: Site) -> None:
    found = {post(site.web, "/tooled").json()["pid"] for _ in range(10)}
    assert found <= (site.worker.children() or {site.worker.process.pid})


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_services_are_there_before_a_request_and_put_away_at_the_end(redis: Broker, gate: Gate, pool: Pool) -> None:
    name = f"tools-{pool}"
    with celery(f"celery+{redis.url}", name, pool=pool, TEST_TOOL="told") as worker:
        pids = sorted(worker.children() or {worker.process.pid})
        for pid in pids:
            gate.wait_note(f"tool made in {pid}")
        assert worker.stop() == 0
    for pid in pids:
        gate.wait_note(f"tool put away in {pid}")
    assert sum(note.startswith("tool made") for note in gate.notes) == len(pids)


# ---- streamed, cancelled


def test_stream_messages_and_progress_come_while_the_node_runs(site: Site, gate: Gate) -> None:
    name = f"steps {site.worker.pool}"
    with streaming(site.web, "/steps", name=name, number=3) as answer:
        came, numbers = events(answer), list[int]()
        progress: list[Any] = []
        for event in came:
            if "done" in event:
                progress.append(event)
            elif "number" in event:
                numbers.append(event["number"])
                gate.wait(f"{name} {event['number']}")  # it stands there still: this came before the next was made
                gate.open(f"{name} {event['number']}")
        assert numbers == [1, 2, 3]
        assert progress
        assert progress[0]["total"] == 3
    gate.wait_note(f"{name} closed")


def test_a_slow_reader_holds_up_its_stream_and_nothing_else(site: Site, gate: Gate) -> None:
    name = f"slow {site.worker.pool}"

    def made() -> int:
        return sum(note.startswith(f"{name} makes") for note in list(gate.notes))

    with streaming(site.web, "/parts", number=400, name=name) as answer:
        gate.wait_note(f"{name} makes 14")
        still: list[int] = []
        wait_until(lambda: still.append(made()) or still[-50:] == [made()] * 50, "it makes no more")  # type: ignore[func-returns-value]
        assert made() < 400
        assert said(post(site.web, "/work"))[1] == "ok"
        assert sum("text" in event for event in events(answer)) == 400


def test_a_caller_who_leaves_is_noticed_by_the_node(site: Site, gate: Gate) -> None:
    name = f"left {site.worker.pool}"
    with Wire(site.web.port) as wire:
        wire.post("/watchful", {"name": name})
        gate.wait_note(f"{name} began")
    gate.wait_note(f"{name} saw it")
    with streaming(site.web, "/endless", name=f"{name} too", number=1):
        gate.wait_note(f"{name} too began")
    gate.wait_note(f"{name} too saw it")
    wait_idle(site.web, 2)


def test_orders_reach_a_worker_though_the_broker_was_emptied(redis: Broker, gate: Gate) -> None:
    with a_site(redis, "prefork", namespace="emptied") as site:
        wait_served(site.web)
        for key in redis.keys("emptied:orders:*"):
            redis.cli("DEL", key)
        redis.until(lambda keys: len(keys) == 2, "KEYS", "emptied:orders:*")
        with Wire(site.web.port) as wire:
            wire.post("/watchful", {"name": "emptied"})
            gate.wait_note("emptied began")
        gate.wait_note("emptied saw it")


# ---- bounded, timed, withdrawn


def test_what_waits_is_bounded_for_each_web_process_and_withdrawn_at_its_deadline(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Both loops are held: what waits behind them, at most two for each web process, and what never runs."""
    record = tmp_path / "begun"
    with (
        a_site(redis, "prefork", **{RECORD: record}) as site,
        web(site.url, site.namespace, queue_limit=2) as narrow,
    ):
        wait_idle(narrow, 2)
        held = [callers.submit(post, narrow, "/patient", name="held", number=number) for number in (1, 2)]
        gate.wait("held", 2)
        assert depth(narrow) == 0  # that they have begun is known
        waiting = [callers.submit(post, narrow, "/patient", 1.0, number=number) for number in (3, 4)]
        wait_until(lambda: depth(narrow) == 2, "two wait")
        full = post(narrow, "/patient", number=5)
        assert said(full) == (503, "queue-full", False)
        assert full.json()["retry_safe"] is True
        other = callers.submit(post, site.web, "/patient", number=6)
        wait_until(lambda: depth(site.web) == 1, "the other web process has room of its own")
        late = callers.submit(post, site.web, "/brief", name="held", number=7)
        assert [said(each.result()) for each in waiting] == [(503, "expired-in-queue", False)] * 2
        assert said(late.result()) == (503, "expired-in-queue", False)
        assert depth(narrow) == 0
        with Wire(site.web.port) as leaves:
            leaves.post("/patient", {"number": 8})
            wait_until(lambda: depth(site.web) == 2, "it waits")
        wait_until(lambda: depth(site.web) == 1, "its caller has gone, and so has it")
        gate.open("held")
        assert [said(each.result()) for each in (*held, other)] == [(200, "ok", True)] * 3
        assert said(post(site.web, "/work", number=9))[1] == "ok"  # all that lay before it has been dealt with
        wait_until(lambda: redis.cli("LLEN", site.namespace) == 0, "nothing is left in the queue")
        assert sorted(numbers(record)) == [1, 2, 6, 9]


def test_a_deadline_passes_while_it_runs(site: Site, gate: Gate) -> None:
    name, asked_at = f"brief {site.worker.pool}", monotonic()
    before = late_replies(site.web)
    assert said(post(site.web, "/brief", name=name)) == (504, "deadline-exceeded", True)
    assert monotonic() - asked_at < 0.4 + 0.3
    gate.wait(name)
    gate.open(name)  # its late reply finds nobody
    assert said(post(site.web, "/work"))[1] == "ok"
    wait_until(lambda: late_replies(site.web) == before + 1, "it was counted")


def late_replies(process: Server) -> float:
    found = re.search(
        r"^offloop_late_replies_total (\S+)", httpx.get(f"{process.url}/offloop/metrics").text, re.MULTILINE
    )
    assert found is not None
    return float(found.group(1))


def test_a_drain_that_runs_out_of_time_cuts_what_waits_and_what_runs(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    record = tmp_path / "begun"
    with (
        a_site(redis, "prefork", **{RECORD: record}) as site,
        web(site.url, site.namespace, drain_timeout=0.5) as process,
    ):
        wait_idle(process, 2)
        running = [callers.submit(post, process, "/patient", name="cut", number=number) for number in (1, 2)]
        gate.wait("cut", 2)
        queued = callers.submit(post, process, "/patient", number=3)
        wait_until(lambda: depth(process) == 1, "one waits")
        told = monotonic()
        process.signal(signal.SIGTERM)
        assert said(queued.result()) == (503, "drain-cut", False)
        assert [said(each.result()) for each in running] == [(504, "drain-cut", True)] * 2
        assert process.wait() == -signal.SIGTERM
        assert monotonic() - told < 0.5 + 1.5
        gate.open("cut")
        wait_served(site.web)
        assert sorted(set(numbers(record))) == [0, 1, 2]


@pytest.mark.slow
def test_without_workers_it_is_refused_soon_and_served_when_one_comes(redis: Broker, tmp_path: Path) -> None:
    url, name, record = f"celery+{redis.url}", "vacant", tmp_path / "begun"
    with web(url, name) as process:
        assert said(post(process, "/work", 0.5, number=1)) == (503, "expired-in-queue", False)
        refused = (503, "backend-unavailable", False)
        took = wait_until(lambda: said(post(process, "/work", 0.1, number=2)) == refused, "nobody was there for 5 s")
        assert took < 7
        assert httpx.get(f"{process.url}/offloop/readyz").status_code == 200
        with celery(url, name, **{RECORD: record}):
            wait_until(lambda: said(post(process, "/work", number=3))[1] == "ok", "somebody has come")
    assert set(numbers(record)) == {3}


# ---- pools, versions


def test_an_endpoints_pool_is_a_queue_of_its_own(redis: Broker, gate: Gate, callers: ThreadPoolExecutor) -> None:
    url, name = f"celery+{redis.url}", "pools"
    with (
        celery(url, name, "-Q", name, concurrency=1, ready=False) as plain,
        celery(url, name, "-Q", f"{name}.gpu", concurrency=1) as gpu,
        web(url, name) as process,
    ):
        plain.wait_ready()
        wait_idle(process, 2)
        pids = [[post(process, path).json()["pid"] for _ in range(5)] for path in ("/work", "/gpu")]
        assert [set(each) for each in pids] == [plain.children(), gpu.children()]
        held = callers.submit(post, process, "/patient", name="plain")
        gate.wait("plain")
        assert said(post(process, "/gpu"))[1] == "ok"
        gate.open("plain")
        assert said(held.result())[1] == "ok"


@pytest.mark.slow
def test_a_worker_hands_back_what_it_has_in_another_version(redis: Broker, gate: Gate) -> None:
    """The same endpoint with another field, on one queue: each finds its own workers."""
    url, name = f"celery+{redis.url}", "versions"
    with ExitStack() as stack:
        old_worker = stack.enter_context(celery(url, name, concurrency=1, ready=False))
        new_worker = stack.enter_context(celery(url, name, concurrency=1, **{FIELD: "1"}))
        old_worker.wait_ready()
        old = stack.enter_context(web(url, name))
        new = stack.enter_context(web(url, name, **{FIELD: "1"}))
        for process in (old, new):
            wait_idle(process, 2)
        with Callers(old.port, callers=2, total=40) as before, Callers(new.port, callers=2, total=40) as after:
            before.finish(stop=False)
            after.finish(stop=False)
        assert not before.faults + after.faults
        assert (before.counted(), after.counted()) == ({"ok": 40}, {"ok": 40})
        assert {call.pid for call in before.calls} == old_worker.children()
        assert {call.pid for call in after.calls} == new_worker.children()
        new_worker.stop()
        wait_idle(new, 1)
        assert said(post(new, "/work", 0.5)) == (503, "expired-in-queue", False)
        assert said(post(old, "/work"))[1] == "ok"


# ---- an app that people have


@pytest.fixture(scope="module")
def shop(redis: Broker) -> Iterator[ModuleType]:
    """Their app, as whoever sends their tasks imports it."""
    os.environ["TEST_CELERY"] = redis.url
    try:
        from tests.e2e.programs import celeried_own_app

        yield celeried_own_app
        celeried_own_app.app.close()
    finally:
        os.environ.pop("TEST_CELERY")


@pytest.fixture(scope="module", params=["prefork", "threads"])
def theirs(request: pytest.FixtureRequest, gate: Gate, redis: Broker, shop: ModuleType) -> Iterator[Site]:
    options: dict[str, Any] = {"app": THEIRS, "TEST_CELERY": redis.url}
    name = f"offloop-{request.param}"  # `register` reads the namespace from the environment of the worker
    queues = ",".join(["shop", "slow", name, f"{name}.gpu"])
    with a_site(redis, request.param, "-Q", queues, namespace=name, **options) as site:
        yield site


def test_their_own_tasks_results_routes_and_serializers_are_as_before(
    theirs: Site, shop: ModuleType, redis: Broker
) -> None:
    with Callers(theirs.web.port, callers=3) as load:
        sums = [shop.add.delay(number, 1) for number in range(30)]
        assert [each.get(timeout=20) for each in sums] == list(range(1, 31))
        word = shop.slow.delay("leise")
        assert word.get(timeout=20) == "LEISE"
        with pytest.raises(ValueError, match="as it is meant to"):
            shop.fail.delay().get(timeout=20)
        load.wait(number=50)
    assert load.counted().keys() == {"ok"}
    line = Line(address_of(shop.RESULTS))
    try:
        keys, kept = line.exchange([("KEYS", "*"), ("GET", f"celery-task-meta-{word.id}")])
    finally:
        line.close()
    assert kept.startswith(b"shop{")
    assert {key.decode() for key in keys} == {
        f"celery-task-meta-{each.id}" for each in (*sums, word)
    } | {key.decode() for key in keys if b'"FAILURE"' in redis_get(shop.RESULTS, key)}  # fmt: skip
    for each in (*sums, word):
        each.forget()
    assert shop.app.conf.task_routes == {"shop.slow": {"queue": "slow"}}
    assert (shop.app.conf.task_serializer, shop.app.conf.result_backend) == ("shop", shop.RESULTS)


def redis_get(url: str, key: bytes) -> bytes:
    line = Line(address_of(url))
    try:
        (value,) = line.exchange([("GET", key)])
    finally:
        line.close()
    assert isinstance(value, bytes)
    return value


def test_a_killed_child_is_told_of_whatever_their_settings_say(
    theirs: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Theirs are `task_reject_on_worker_lost`, `task_acks_on_failure_or_timeout` and `task_ignore_result`."""
    if theirs.worker.pool != "prefork":
        pytest.skip("a pool of threads has no children")
    for _ in range(2):
        killed = monotonic()
        assert said(post(theirs.web, "/failing", how="kill")) == (502, "worker-lost", True)
        assert monotonic() - killed < 2
    assert said(post(theirs.web, "/work"))[1] == "ok"


def test_without_queues_named_it_takes_from_theirs_and_ours(redis: Broker, shop: ModuleType) -> None:
    name = "unnamed"
    with a_site(redis, "threads", namespace=name, app=THEIRS, TEST_CELERY=redis.url) as site:
        assert said(post(site.web, "/work"))[1] == "ok"
        assert said(post(site.web, "/gpu"))[1] == "ok"
        assert shop.add.delay(1, 2).get(timeout=20) == 3


def test_a_worker_for_their_own_tasks_has_nothing_of_ours_until_it_is_told_to(
    redis: Broker, gate: Gate, shop: ModuleType
) -> None:
    """It may have nothing that the program needs; `celery control` may give it our queue later, and take it again."""
    name, url = "later", f"celery+{redis.url}"
    options = {"app": THEIRS, "TEST_CELERY": redis.url, "TEST_TOOL": "told"}
    with celery(url, name, "-Q", "shop", concurrency=1, **options) as worker, web(url, name) as process:
        assert shop.add.delay(1, 2).get(timeout=20) == 3
        assert redis.keys(f"{name}:workers:*") == redis.keys(f"{name}:orders:*") == []
        assert not [note for note in gate.notes if note.startswith("tool made")]
        told = {"destination": [worker.name], "reply": True, "timeout": 10}
        shop.app.control.add_consumer(name, **told)
        wait_idle(process, 1)
        assert said(post(process, "/patient"))[1] == "ok"
        (pid,) = worker.children()
        gate.wait_note(f"tool made in {pid}")
        shop.app.control.cancel_consumer(name, **told)
        wait_idle(process, 0)
        redis.until(lambda there: not there, "HGETALL", f"{name}:workers:{name}")


def test_their_prefix_of_keys_is_kept(redis: Broker) -> None:
    """An app's `global_keyprefix` is in the URL's query: nothing in it says so to kombu otherwise."""
    url = f"celery+{redis.url}?global_keyprefix=shop:"
    with celery(url, "prefixed"), web(url, "prefixed") as process:
        wait_idle(process, 2)
        assert said(post(process, "/work"))[1] == "ok"
        assert redis.keys("shop:_kombu.binding.prefixed*")


# ---- watched


def test_who_watches_sees_requests_and_no_payload(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    name = f"watched {site.worker.pool}"
    with Watcher(site.app) as watcher:
        held = callers.submit(post, site.web, "/patient", name=name, secret=SECRET)
        gate.wait(name)
        inspect = site.app.control.inspect(destination=[site.worker.name], timeout=5)
        found = {how: asked(getattr(inspect, how), how) for how in ("active", "stats", "registered", "report", "conf")}
        (active,) = found["active"][site.worker.name]
        assert (active["name"], active["args"]) == (f"{site.namespace}.run", ["patient"])
        queried = asked(lambda: inspect.query_task(active["id"]), "of one")
        assert any(task.startswith(f"{site.namespace}.run") for task in found["registered"][site.worker.name])
        assert found["stats"][site.worker.name]["pool"]["max-concurrency"] == 2
        waiting = [callers.submit(post, site.web, "/patient", name=name, secret=SECRET) for _ in range(4)]
        gate.wait(name, 2)
        found["reserved"] = inspect.reserved()
        calls = [held, *waiting]
        wait_until(lambda: gate.open(name) or all(call.done() for call in calls), "one is let on")
        while not all(call.done() for call in calls):
            gate.open(name)
        assert {said(call.result()) for call in calls} == {(200, "ok", True)}
        ended = watcher.wait("task-succeeded", lambda event: event["uuid"] == active["id"])
        assert ended["hostname"] == site.worker.name
        begun = watcher.wait("task-received", lambda event: event["uuid"] == active["id"])
        assert begun["name"] == f"{site.namespace}.run"
        watcher.wait("task-started", lambda event: event["uuid"] == active["id"])
    for what in (found, queried, watcher.events, site.worker.log):
        assert not shown(repr(what))
    assert shown(base64.b64encode(f'{{"name": "x", "secret": "{SECRET}"}}'.encode()).decode())  # it would be found


def test_flower_shows_requests_and_no_payload(gate: Gate, callers: ThreadPoolExecutor) -> None:
    # A broker of its own, on which no other test has killed a worker.
    with (
        broker() as own,
        a_site(own, "prefork", "-E", namespace="flower") as site,
        flower(own.url, site.worker) as watcher,
    ):
        held = callers.submit(post, site.web, "/patient", name="flower", secret=SECRET)
        gate.wait("flower")
        inspect = site.app.control.inspect(destination=[site.worker.name], timeout=5)
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


def test_an_endpoint_can_be_told_from_others_in_the_log(site: Site) -> None:
    assert said(post(site.web, "/work"))[1] == "ok"
    site.worker.wait_line(rf"Task {site.namespace}\.run\[\S+\.1\] received")


# ---- nothing is left


def test_nothing_is_left_behind_but_what_ends_by_itself(redis: Broker, gate: Gate) -> None:
    with broker() as own:
        with a_site(own, "prefork", namespace="left") as site:
            with Callers(site.web.port, total=100) as load:
                load.finish(stop=False)
            assert said(post(site.web, "/failing", how="kill"))[1] == "worker-lost"
            with Wire(site.web.port) as wire:
                wire.post("/watchful", {"name": "last"})
                gate.wait_note("last began")
            gate.wait_note("last saw it")
            assert said(post(site.web, "/hang", name="late"))[0] == 504
            gate.open("late")
            site.web.signal(signal.SIGTERM)
            site.web.wait()
            assert own.keys("left:inbox:*") == []
            assert site.worker.stop() == 0
        ours = [key for key in own.keys("*") if not key.startswith("_kombu.")]
        assert [key for key in ours if own.cli("TTL", key) == -1] == []
        assert own.keys("*celery-task-meta*") == []


# ---- signed


@pytest.fixture(scope="module")
def signed(gate: Gate, redis: Broker) -> Iterator[Site]:
    url, name = f"celery+{redis.url}", "signed"
    with (
        celery(url, name, pool="threads", signing_key="one,two") as worker,
        web(url, name, signing_key="two,one") as process,
    ):
        wait_idle(process, 2)
        yield Site(redis, url, name, process, worker, Celery(broker=redis.url, set_as_current=False))


def waiting_message(site: Site, gate: Gate, callers: ThreadPoolExecutor, name: str) -> tuple[Any, bytes]:
    """Both loops are held under `name`, and a third request waits for them: its caller, and the entry of the queue."""
    for _ in range(2):
        callers.submit(post, site.web, "/patient", name=name)
    gate.wait(name, 2)
    third = callers.submit(post, site.web, "/patient", name=name, number=3)
    (entry,) = site.broker.until(lambda entries: len(entries) == 1, "LRANGE", queue_of(site.namespace, None), 0, -1)
    return third, entry


def altered(entry: bytes, key: tuple[str, ...], **changes: Any) -> bytes:
    """A message with another request in it, as somebody writes it who has that key and a real one before him."""
    message = json.loads(entry)
    args, kwargs, embed = json.loads(message["body"])
    fields = unpacked(embed[BESIDE])
    parcel = parcels((), MIB).read("", fields[:2])
    parcel = msgspec.structs.replace(parcel, envelope=msgspec.structs.replace(parcel.envelope, **changes))
    written = parcels(key, MIB).write(message["properties"]["delivery_info"]["routing_key"], parcel)
    embed[BESIDE] = packed([*written[:2], *(written[2:] or fields[2:])] if key != ("none",) else written[:2])
    message["body"] = json.dumps([args, kwargs, embed])
    message["properties"]["delivery_tag"] = uuid4().hex
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("key", "why"),
    [((), "its signature does not fit"), (("guess",), "its signature does not fit"), (("none",), "it is not signed")],
    ids=["altered", "another's key", "unsigned"],
)
def test_what_was_not_signed_with_a_key_of_ours_does_not_run(
    signed: Site, gate: Gate, callers: ThreadPoolExecutor, key: tuple[str, ...], why: str
) -> None:
    name, queue = f"forged {key}", queue_of(signed.namespace, None)
    third, entry = waiting_message(signed, gate, callers, name)
    payload = json.dumps({"name": "", "number": 666}).encode()
    rid = json.loads(entry)["headers"]["id"].rpartition(".")[0]
    signed.broker.cli("RPUSH", queue, altered(entry, key, payload=payload, rid=f"{rid[:-4]}beef"))
    gate.open(name)
    gate.wait(name)
    gate.open(name)
    assert said(third.result())[1] == "ok"
    signed.worker.wait_line(f"a request is dropped: {why}")
    assert not signed.broker.keys(f"{signed.namespace}:begun:*beef:1")
    assert said(post(signed.web, "/work"))[1] == "ok"


def test_a_request_that_is_put_there_again_runs_once(signed: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    third, entry = waiting_message(signed, gate, callers, "replayed")
    queue = queue_of(signed.namespace, None)
    signed.broker.cli("LPUSH", queue, entry, entry)
    gate.open("replayed")
    gate.wait("replayed")
    signed.broker.until(lambda length: length == 0, "LLEN", queue)
    assert said(post(signed.web, "/work"))[1] == "ok"  # the others have been dealt with
    assert gate.holds("replayed") == 1
    gate.open("replayed")
    assert said(third.result())[1] == "ok"
    signed.broker.cli("LPUSH", queue, entry)  # and once it has ended
    assert said(post(signed.web, "/work"))[1] == "ok"
    assert gate.holds("replayed") == 0


def test_a_forged_reply_answers_nobody(signed: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    held = callers.submit(post, signed.web, "/patient", name="answered")
    gate.wait("answered")
    (inbox,) = signed.broker.keys(f"{signed.namespace}:inbox:*")
    signed.broker.cli("XADD", inbox, "*", "e", b"\x91\x01")
    wait_until(lambda: status(signed.web)["entries_refused"] == 1, "it was not believed")
    gate.open("answered")
    assert said(held.result())[1] == "ok"
    assert Names(signed.namespace).inbox("") in inbox

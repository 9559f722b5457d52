"""`register` and `worker_app`: what they add to an app and what they leave as it is, what they refuse and import."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, states
from celery.concurrency.prefork import TaskPool
from celery.exceptions import TaskRevokedError
from celery.worker.request import Request
from kombu import Message, Queue

from offloop import errors
from offloop.celery import register, worker, worker_app
from offloop.messages import Outcome
from offloop.settings import Settings
from offloop.telemetry import logs
from offloop.transports.celery.letters import id_of
from tests.support.server import ROOT

PACKAGE = "tests.e2e.programs.clustered"
BROKER = "redis://localhost:1/0"
"""Nobody listens there, and nobody may have to."""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OFFLOOP_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_traces() -> Iterator[None]:
    """A worker's process names its requests in its logs for as long as it lives; this one goes on without it."""
    before = logs._installed
    yield
    while logs._installed > before:
        logs.uninstall()


def app(**conf: Any) -> Celery:
    made = Celery("shop", broker=BROKER, set_as_current=False)
    made.conf.update(conf)
    return made


# ---- what it adds, and what it leaves


def test_it_adds_one_task_and_nothing_else() -> None:
    mine, other = app(), app()
    register(mine, PACKAGE)
    assert set(mine.tasks) - set(other.tasks) == {"offloop.run"}


def test_the_task_is_called_after_the_namespace() -> None:
    mine = app()
    register(mine, PACKAGE, settings=Settings(namespace="docs"))
    assert "docs.run" in mine.tasks


def test_the_apps_own_settings_stay_as_they_are() -> None:
    own: dict[str, Any] = {
        "result_backend": "redis://localhost:1/1", "task_routes": {"shop.*": {"queue": "shop"}},
        "task_serializer": "yaml", "accept_content": ["yaml", "json"], "task_default_queue": "shop",
        "task_acks_late": False, "worker_prefetch_multiplier": 4,
    }  # fmt: skip
    mine = app(**own)
    before = dict(mine.conf)
    register(mine, PACKAGE)
    assert dict(mine.conf) == before
    assert mine.backend.as_uri() == "redis://localhost:1/1"


def test_it_may_be_called_before_the_app_is_configured() -> None:
    mine = Celery("shop", set_as_current=False)
    register(mine, PACKAGE)
    mine.conf.update(broker_url=BROKER, task_default_queue="late", result_backend="redis://localhost:1/1")
    assert (mine.conf.broker_url, mine.conf.task_default_queue) == (BROKER, "late")
    assert mine.backend.as_uri() == "redis://localhost:1/1"


def test_the_task_has_a_backend_of_its_own_and_the_others_have_the_apps() -> None:
    mine = app(result_backend="redis://localhost:1/1")

    @mine.task(name="shop.count", shared=False)  # otherwise every app of this process has it from then on
    def count() -> None: ...

    register(mine, PACKAGE)
    assert mine.tasks["shop.count"].backend is mine.backend
    assert mine.tasks["offloop.run"].backend is not mine.backend


HARMFUL = {
    "task_acks_late": False, "task_acks_on_failure_or_timeout": False, "task_reject_on_worker_lost": True,
    "task_ignore_result": True, "task_track_started": True, "task_serializer": "pickle",
    "task_default_rate_limit": "1/m", "task_store_errors_even_if_ignored": False,
}  # fmt: skip


def test_what_an_app_has_set_for_its_own_tasks_is_nothing_to_ours() -> None:
    mine = app(**HARMFUL)
    register(mine, PACKAGE)
    task = mine.tasks["offloop.run"]
    assert (task.acks_late, task.acks_on_failure_or_timeout, task.reject_on_worker_lost) == (True, True, False)
    assert (task.ignore_result, task.track_started, task.serializer) == (False, False, "json")
    assert not task.rate_limit


def test_two_apps_in_one_process_do_not_disturb_each_other() -> None:
    one, other = app(**HARMFUL), app()
    register(one, PACKAGE, settings=Settings(namespace="one"))
    register(other, PACKAGE, settings=Settings(namespace="other"))
    assert "other.run" not in one.tasks
    assert one.tasks["one.run"].app is one
    assert other.tasks["other.run"].app is other
    assert one.tasks["one.run"].name == "one.run"


def test_whoever_listens_for_its_configuration_is_told_as_without_it() -> None:
    """Which is where people add their periodic tasks; also those who begin to listen after `register`."""
    mine, told = app(), list[str]()
    register(mine, PACKAGE)
    assert not mine.configured
    assert not mine.finalized
    mine.on_after_configure.connect(lambda sender, **_: told.append("configured"), weak=False)
    mine.on_after_finalize.connect(lambda sender, **_: told.append("finalized"), weak=False)
    assert "offloop.run" in mine.tasks
    assert sorted(told) == ["configured", "finalized"]


def test_an_app_that_is_finalized_already_has_the_task_at_once() -> None:
    mine = app()
    mine.finalize()
    register(mine, PACKAGE)
    assert mine.tasks["offloop.run"].app is mine


def test_what_annotations_say_of_all_tasks_they_do_not_say_of_ours() -> None:
    own = {"rate_limit": "10/m", "acks_late": False, "ignore_result": True, "time_limit": 1, "track_started": True}
    mine = app(task_annotations={"*": own, "offloop.run": own})

    @mine.task(name="shop.count", shared=False)
    def count() -> None: ...

    register(mine, PACKAGE)
    task, theirs = mine.tasks["offloop.run"], mine.tasks["shop.count"]
    assert (task.acks_late, task.ignore_result, task.track_started) == (True, False, False)
    assert (task.rate_limit, task.time_limit) == (0, None)
    assert {name: getattr(theirs, name) for name in own} == own


# ---- a worker that starts


class Instance:
    """As much of Celery's worker as is asked for; `-Q` selects what it takes from."""

    pool_cls = TaskPool

    def __init__(self, made: Celery, *queues: str) -> None:
        self.app = made
        if queues:
            made.amqp.queues.select(queues)


def started(mine: Celery, *queues: str) -> set[str]:
    """What a worker takes from that has got so far."""
    worker._set_up(Instance(mine, *queues))
    return set(mine.amqp.queues.consume_from)


@pytest.mark.parametrize(
    ("named", "taken"),
    [((), {"offloop", "shop"}), (("shop",), {"shop"}), (("shop", "offloop"), {"shop", "offloop"})],
)
def test_a_worker_takes_from_our_queues_unless_others_are_named(named: tuple[str, ...], taken: set[str]) -> None:
    mine = app(task_default_queue="shop")
    register(mine, PACKAGE)
    assert started(mine, *named) == taken


def test_a_queue_that_the_app_describes_itself_is_left_as_it_is() -> None:
    limited = {"x-max-length": 100, "x-overflow": "reject-publish"}
    mine = app(task_queues=[Queue("offloop", queue_arguments=limited), Queue("shop")])
    register(mine, PACKAGE)
    assert started(mine) == {"offloop", "shop"}
    assert mine.amqp.queues["offloop"].queue_arguments == limited


def test_a_worker_for_other_tasks_has_nothing_to_do_with_the_program() -> None:
    mine = app(task_default_queue="shop", accept_content=["pickle"])
    register(mine, "tests.nowhere.at.all")
    assert started(mine, "shop") == {"shop"}
    assert not worker.registered[mine].engine.loaded
    mine.conf.accept_content = ["json"]
    with pytest.raises(SystemExit, match="tests.nowhere"):
        started(mine, "shop", "offloop")


@pytest.mark.parametrize(
    ("conf", "why"),
    [
        ({"broker_url": "amqp://one//;amqp://other//"}, "several brokers"),
        ({"broker_url": ["redis://one/0", "redis://other/0"]}, "several brokers"),
        ({"broker_url": "amqps://one//", "broker_use_ssl": {"ciphers": "few"}}, "'ciphers' of broker_use_ssl"),
        ({"broker_url": "redis+socket:///run/redis.sock", "broker_use_ssl": {}}, "broker_use_ssl"),
    ],
)
def test_a_broker_that_cannot_be_followed_is_refused_with_what_to_do(conf: dict[str, Any], why: str) -> None:
    mine = Celery("shop", set_as_current=False)
    mine.conf.update(conf)
    with pytest.raises(errors.SettingsError, match="OFFLOOP_BROKER_URL") as refused:
        worker._broker_of(mine, Settings())
    assert why in str(refused.value)


def test_the_setting_says_where_requests_are_however_many_brokers_an_app_has() -> None:
    mine = app(broker_url="amqp://one//;amqp://other//")
    assert str(worker._broker_of(mine, Settings(broker_url="celery+redis://here:1/0"))) == "celery on here:1/0"


@pytest.mark.parametrize("url", ["amqp://me@there//", "amqps://me@there//", "pyamqp://me@there//"])
@pytest.mark.parametrize("checked", [ssl.CERT_REQUIRED, ssl.CERT_NONE])
def test_tls_of_the_apps_rabbitmq_is_tls_of_ours(url: str, checked: ssl.VerifyMode) -> None:
    mine = app(broker_url=url, broker_use_ssl={"cert_reqs": checked})
    address = worker._broker_of(mine, Settings()).address  # type: ignore[attr-defined]  # a RabbitMQ's
    assert (address.tls.verify_mode, address.port) == (checked, 5671)


@pytest.mark.parametrize("checked", [ssl.CERT_REQUIRED, ssl.CERT_NONE, "none"])
def test_tls_of_the_apps_redis_is_tls_of_ours(checked: object) -> None:
    mine = app(broker_url="redis://there:6380/3", broker_use_ssl={"ssl_cert_reqs": checked})
    address = worker._broker_of(mine, Settings()).address  # type: ignore[attr-defined]  # a Redis'
    expected = ssl.CERT_REQUIRED if checked is ssl.CERT_REQUIRED else ssl.CERT_NONE
    assert address.tls.verify_mode == expected


# ---- how long it may run


class Result:
    """Of billiard: what its pool was told of time limits."""

    def __init__(self) -> None:
        self.limits: list[float] = []
        self._timeout = self._soft_timeout = 99.0

    def _on_timeout_set(self, result: "Result", soft: float, hard: float) -> None:
        assert (soft, result._timeout, result._soft_timeout) == (hard, hard, hard)
        self.limits.append(hard)

    def _on_timeout_cancel(self, result: "Result") -> None:
        self.limits.append(0.0)


def accepted(until: object, now: float, *, pool: bool = True) -> list[float]:
    """What is said of a task with a limit of 9 s that a process takes up at that instant."""
    mine, result = app(), Result() if pool else object()
    register(mine, PACKAGE)
    task = mine.tasks["offloop.run"]
    request = task.Request.__new__(task.Request)
    request.__init__(
        Message(body=b"[[], {}, {}]", content_type="application/json", content_encoding="utf-8"), app=mine, task=task,
        headers={"id": "r.1", "task": "offloop.run", "timelimit": [9.0, 9.0], "offloop_until": until},
        decoded=True, body=([], {}, {}),
    )  # fmt: skip
    request._apply_result = lambda: result
    request.send_event = lambda *_, **__: None
    task._engine.end = lambda: SimpleNamespace(broker_time=lambda _: now)
    request.on_accepted(1, monotonic())
    return result.limits if isinstance(result, Result) else []


@pytest.mark.parametrize(
    ("until", "now", "limit"),
    [
        (109.0, 100.0, 9.0), (109.0, 103.5, 5.5), (109, 105.0, 4.0),
        (109.0, 120.0, 1.0),  # it sees by itself that it is late
        (109.0, 90.0, 9.0),  # never longer than its message says
        (109.0, float("inf"), 9.0),  # what time it is there has not been read yet
    ],
)  # fmt: skip
def test_its_time_limit_counts_from_its_deadline_however_long_it_waited(until: float, now: float, limit: float) -> None:
    assert accepted(until, now) == [0.0, limit]


def test_a_pool_that_kills_nobody_and_a_message_that_does_not_say_are_left_as_they_are() -> None:
    assert accepted(109.0, 100.0, pool=False) == []
    assert accepted(None, 100.0) == accepted("soon", 100.0) == []


# ---- what it imports


PROBE = """
import sys
from celery import Celery
from offloop.celery import register
before = set(sys.modules)
app = Celery("shop", broker="redis://localhost:1/0")
register(app, "tests.e2e.programs.clustered", "tests.nowhere.at.all")
assert app.tasks["offloop.run"]
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_registering_imports_nothing_of_the_program_and_connects_to_nobody() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    modules = found.stdout.split()
    assert not [name for name in modules if name.startswith("tests")]
    assert not [name for name in modules if name.startswith(("fastapi", "starlette", "uvicorn"))]


def test_whoever_sends_tasks_needs_no_web_framework() -> None:
    script = "import sys, offloop.celery; print([m for m in sys.modules if m.startswith(('fastapi', 'starlette'))])"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"


# ---- what it refuses


def test_without_a_package_it_says_what_to_name() -> None:
    with pytest.raises(errors.UsageError, match="name the module of your nodes"):
        register(app())


def test_twice_is_refused_and_another_app_is_not() -> None:
    mine = app()
    register(mine, PACKAGE)
    with pytest.raises(errors.UsageError, match="shop was registered before: name all packages at once"):
        register(mine, "another.package")
    register(app(), PACKAGE)


@pytest.mark.parametrize("accepted", [["pickle"], ["yaml", "msgpack"], []])
def test_a_worker_of_an_app_that_takes_no_json_does_not_start(accepted: list[str]) -> None:
    """It is said when a worker starts, and not before: until then an app may be configured."""
    mine = app(accept_content=accepted)
    register(mine, PACKAGE)
    with pytest.raises(SystemExit, match="add 'json'"):
        started(mine)
    mine.conf.accept_content = [*accepted, "application/json"]
    started(mine)


def test_a_malformed_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOOP_MAX_REPLY", "much")
    with pytest.raises(errors.SettingsError, match="OFFLOOP_MAX_REPLY"):
        register(app(), PACKAGE)


@pytest.mark.parametrize("url", [None, "redis://localhost/0"])
def test_an_app_of_ours_needs_a_broker_of_celerys(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    if url is not None:
        monkeypatch.setenv("OFFLOOP_BROKER_URL", url)
    with pytest.raises(errors.SettingsError, match="OFFLOOP_BROKER_URL is not set to a broker of Celery's"):
        worker_app(PACKAGE)


def test_an_app_of_ours_is_ready_for_blocking_work() -> None:
    made = worker_app(PACKAGE, settings=Settings(broker_url="celery+redis://:pw@localhost:1/3", namespace="docs"))
    assert made.conf.broker_url == "redis://:pw@localhost:1/3"
    assert made.conf.worker_prefetch_multiplier == 1
    assert made.conf.task_default_queue == "docs"
    assert made.conf.result_backend is None
    assert "docs.run" in made.tasks


def test_a_prefix_of_keys_is_for_kombu_and_not_in_its_url() -> None:
    url = "celery+redis://localhost:1/3?global_keyprefix=shop:"
    made = worker_app(PACKAGE, settings=Settings(broker_url=url))
    assert made.conf.broker_url == "redis://localhost:1/3"
    assert made.conf.broker_transport_options["global_keyprefix"] == "shop:"


# ---- how a task's end is told


class Engine:
    """Notes what is told to whom."""

    def __init__(self) -> None:
        self.told: list[Outcome] = []
        self.broken = False

    def end(self) -> "Engine":
        return self

    def tell(self, rid: str, report: Outcome, *, heard: bool) -> None:
        assert heard
        assert rid == report.rid
        if self.broken:
            raise OSError("the broker is gone")
        self.told.append(report)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def backend(engine: Engine) -> Any:
    from offloop.celery.task import Ends

    return Ends(app(), engine)  # type: ignore[arg-type]  # all of it that is asked for


TASK = id_of("abc-1-def", 2)


def the(reason: str, started: bool | None) -> Outcome:
    return Outcome("abc-1-def", reason, attempt=2, started=started)


@pytest.mark.parametrize(
    "lost",
    [WorkerLostError("Worker exited"), TimeLimitExceeded(3), Terminated(9)],
    ids=lambda lost: type(lost).__name__,
)
@pytest.mark.parametrize("request_", [None, "a request"])
def test_a_killed_process_is_told_as_a_lost_worker(
    backend: Any, engine: Engine, lost: Exception, request_: object
) -> None:
    context = None if request_ is None else Request.__new__(Request)
    backend.store_result(TASK, lost, states.FAILURE, request=context)
    assert engine.told == [the("worker-lost", True)]


def test_celery_marks_failures_by_it_with_and_without_a_request(backend: Any, engine: Engine) -> None:
    backend.mark_as_failure(TASK, WorkerLostError("Worker exited"), request=None, store_result=True)
    backend.mark_as_revoked(TASK, "revoked", request=None, store_result=True)
    backend.mark_as_revoked(TASK, "terminated", request=None, store_result=True)
    assert [(outcome.reason, outcome.started) for outcome in engine.told] == [
        ("worker-lost", True), ("backend-unavailable", False), ("worker-lost", True),
    ]  # fmt: skip


def test_what_was_revoked_never_runs_and_what_was_terminated_is_lost(backend: Any, engine: Engine) -> None:
    backend.store_result(TASK, TaskRevokedError("revoked"), states.REVOKED)
    backend.store_result(TASK, TaskRevokedError("terminated"), states.REVOKED)
    assert engine.told == [the("backend-unavailable", False), the("worker-lost", True)]


def test_any_other_failure_of_the_task_is_told_without_saying_whether_it_began(backend: Any, engine: Engine) -> None:
    backend.store_result(TASK, RuntimeError("a secret"), states.FAILURE)
    assert engine.told == [the("node-failed", None)]
    assert "secret" not in repr(engine.told)


@pytest.mark.parametrize("state", [states.SUCCESS, states.STARTED, states.RECEIVED, states.PENDING])
def test_what_has_not_failed_is_not_told(backend: Any, engine: Engine, state: str) -> None:
    backend.store_result(TASK, None, state)
    assert engine.told == []


def test_nobody_can_be_told_is_a_line_in_the_log(
    backend: Any, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.broken = True
    backend.store_result(TASK, WorkerLostError("x"), states.FAILURE)
    backend.store_result("somebody's own", WorkerLostError("x"), states.FAILURE)
    assert len(caplog.records) == 2
    assert all("nobody could be told that" in record.message for record in caplog.records)


def test_nothing_is_kept(backend: Any) -> None:
    backend.store_result(TASK, None, states.SUCCESS)
    assert backend.get_task_meta(TASK) == {"status": states.PENDING, "result": None}
    assert backend.get_state(TASK) == states.PENDING

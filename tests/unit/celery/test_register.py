"""`register` and `worker_app`: what they add to an app and what they leave as it is, what they refuse and import."""

import os
import subprocess
import sys
from typing import Any

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, states
from celery.exceptions import TaskRevokedError
from celery.worker.request import Request

from offloop import errors
from offloop.celery import register, worker_app
from offloop.messages import Outcome
from offloop.settings import Settings
from offloop.transports.celery.letters import id_of
from tests.support.server import ROOT

PACKAGE = "tests.e2e.programs.clustered"
BROKER = "redis://localhost:1/0"
"""Nobody listens there, and nobody may have to."""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OFFLOOP_")]:
        monkeypatch.delenv(name)


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
def test_an_app_that_takes_no_json_is_refused(accepted: list[str]) -> None:
    mine = app(accept_content=accepted)
    with pytest.raises(errors.SettingsError, match="add 'json'"):
        register(mine, PACKAGE)
    assert "offloop.run" not in mine.tasks
    mine.conf.accept_content = [*accepted, "application/json"]
    register(mine, PACKAGE)  # what was refused has left nothing behind


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

"""One gate, one Redis, and one server in each mode for the tests that change nothing of it; tests with settings of
their own start their own. A test that takes `mode` runs in each: first all in thread mode, then all in process mode,
then all over Redis, where it is slow unless its file is named here; then, if its file is named, over Celery on Redis
and on RabbitMQ.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support import modes
from tests.support.broker import Broker, broker
from tests.support.gate import Gate, gate_at
from tests.support.modes import Mode
from tests.support.rabbit import anywhere
from tests.support.server import Server, serving

APP = "tests.e2e.programs.app:app"
OVER_REDIS = {
    "test_deaths", "test_drain", "test_messages", "test_outcomes", "test_promises", "test_rloop", "test_streams",
}  # fmt: skip
"""What `make test` shows over Redis, too: a case of each promise. `make test-all` shows all."""

PROGRAM = "tests.e2e.programs.nodes"
OVER_CELERY = {
    "test_disconnect": PROGRAM, "test_drain": PROGRAM, "test_events": "tests.e2e.programs.events",
    "test_messages": PROGRAM, "test_outcomes": PROGRAM, "test_promises": PROGRAM, "test_rloop": PROGRAM,
    "test_streams": "tests.e2e.programs.streams", "test_websocket": "tests.e2e.programs.sockets",
}  # fmt: skip
"""What is shown over Celery, too, with the program that its workers run; of that `make test` shows `QUICK`."""
QUICK = {"test_rloop"}
ELSEWHERE = {"test_the_log_records_of_a_node_carry_its_request_and_its_process"}
"""What is seen in a server's own log, and over Celery in that of its worker."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "on_one_host(why): a test of thread and process mode, which means nothing over Redis"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = []
    for item in items:
        spec = getattr(item, "callspec", None)
        mode = None if spec is None else spec.params.get("mode")
        if isinstance(mode, Mode) and mode.over_celery:
            named = item.path.stem in OVER_CELERY and getattr(item, "originalname", "") not in ELSEWHERE
            if not named or item.get_closest_marker("on_one_host") is not None:
                left_out.append(item)
            elif item.path.stem not in QUICK:
                item.add_marker("slow")
        if mode is not Mode.CLUSTER:
            continue
        if item.get_closest_marker("on_one_host") is not None:
            left_out.append(item)
        elif item.path.stem not in OVER_REDIS:
            item.add_marker("slow")
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    modes.program = OVER_CELERY.get(item.path.stem, PROGRAM)


@pytest.fixture(scope="session")
def redis() -> Iterator[Broker]:
    """A server for all that run over one; each `Mode.CLUSTER.env()` has a namespace of its own on it."""
    with broker() as server:
        modes.broker_url = server.url
        yield server
        end_workers(0)
        modes.broker_url = ""


@pytest.fixture(scope="session")
def rabbit() -> Iterator[None]:
    """The same of a RabbitMQ."""
    with anywhere() as url:
        modes.rabbit_url = url
        yield
        end_workers(0)
        modes.rabbit_url = ""


def end_workers(but: int) -> None:
    """Those that were started beside servers after so many."""
    while len(modes.beside) > but:
        modes.beside.pop().close()


@pytest.fixture(autouse=True)
def _workers_end_with_their_test() -> Iterator[None]:
    """Those of servers that live on, which were there before the test, do not."""
    before = len(modes.beside)
    yield
    end_workers(before)


@pytest.fixture(scope="session", params=list(Mode), ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    if request.param in (Mode.CLUSTER, Mode.CELERY):
        request.getfixturevalue("redis")
    elif request.param is Mode.RABBIT:
        request.getfixturevalue("rabbit")
    return Mode(request.param)


@pytest.fixture(scope="session")
def gate() -> Iterator[Gate]:
    # A Unix socket's path must be short; the folders that pytest makes are not.
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder, gate_at(Path(folder)) as gate:
        yield gate


@pytest.fixture(autouse=True)
def _names_are_free_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's second run, in another mode, is not taken in by what its first left at the gate."""
    yield
    if "gate" in request.fixturenames:
        gate: Gate = request.getfixturevalue("gate")
        gate.clear()


@pytest.fixture(scope="session")
def server(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(4, per_worker=2)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """Threads in which requests wait for their answers."""
    with ThreadPoolExecutor(16) as callers:
        yield callers

"""One gate, and one server in each mode for the tests that change nothing of it; tests with settings of their own start
their own. A test that takes `mode` runs in each: first all in thread mode, then all in process mode.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gate import Gate, gate_at
from tests.support.modes import Mode
from tests.support.server import Server, serving

APP = "tests.e2e.programs.app:app"


@pytest.fixture(scope="session", params=list(Mode), ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
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

"""One gate and one server for the tests that change nothing of it; tests with settings of their own start their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gate import Gate, gate_at
from tests.support.server import Server, serving

APP = "tests.e2e.programs.app:app"


@pytest.fixture(scope="session")
def gate() -> Iterator[Gate]:
    # A Unix socket's path must be short; the folders that pytest makes are not.
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder, gate_at(Path(folder)) as gate:
        yield gate


@pytest.fixture(scope="session")
def server(gate: Gate) -> Iterator[Server]:
    with serving(APP, env={"OFFLOOP_THREADS": "4"}) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client

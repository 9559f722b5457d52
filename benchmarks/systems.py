"""What is measured: the systems, how each is started, and how it is told its number of workers."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from environments import Environment

APPS = Path(__file__).resolve().parent / "apps"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class System:
    """One way to serve the same work.

    An application of this environment is one uvicorn process (uvloop, httptools, no access log); one with an
    environment of its own is a program that brings its own server.
    """

    key: str
    name: str
    app: str
    workers: str
    """The variable that sets how many threads or processes run the work."""
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    processes: bool = False
    """Whether its workers are processes: then one is used where no number is asked for."""
    environment: Environment | None = None

    def command(self, port: int) -> list[str]:
        """How it is started; a missing environment is made first."""
        if self.environment is not None:
            return [str(self.environment.python()), str(APPS / f"{self.app}.py")]
        return [
            *(sys.executable, "-m", "uvicorn", f"{self.app}:app", "--app-dir", str(APPS)),
            *("--host", HOST, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        ]

    def variables(self, port: int, work: str, workers: int | None, turns: int) -> dict[str, str]:
        """Its whole environment; `workers` is None where it runs as it comes (one process, its own threads)."""
        ours = ("OFFLOOP_", "BENCH_", "MOSEC_", "PYTHON")  # what was set outside must not differ between systems
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        count = workers or (1 if self.processes else None)
        counted = {self.workers: str(count)} if count else {}
        asked = {"BENCH_PORT": str(port), "BENCH_WORK": work, "BENCH_TURNS": str(turns), "MOSEC_PORT": str(port)}
        return {**clean, **asked, **counted, **self.env}


LITSERVE_ENVIRONMENT = Environment("litserve", ("litserve==0.2.19", "uvloop", "httptools"))
# Mosec validates nothing by itself; with pydantic its worker does the same work as everybody's.
MOSEC_ENVIRONMENT = Environment("mosec", ("mosec==0.9.8", f"pydantic=={version('pydantic')}", "uvloop", "httptools"))

ASYNC_DEF = System("async-def", "async def", "async_def", "BENCH_WORKERS")
DEF = System("def", "def", "plain_def", "BENCH_WORKERS")
THREAD = System("thread", "thread mode", "offloop_app", "OFFLOOP_THREADS", {"OFFLOOP_MODE": "thread"})
ONE_THREAD = System(
    "thread-1", "thread mode, 1 loop", "offloop_app", "", {"OFFLOOP_MODE": "thread", "OFFLOOP_THREADS": "1"}
)
"""How work that holds the GIL is run: more loops than one only take it from each other, and from the event loop."""
PROCESS = System(
    "process", "process mode", "offloop_app", "OFFLOOP_WORKERS", {"OFFLOOP_MODE": "process"}, processes=True
)
PPE = System("ppe", "ProcessPoolExecutor", "ppe", "BENCH_WORKERS", processes=True)
MOSEC = System(
    "mosec",
    "Mosec",
    "mosec_app",
    "BENCH_WORKERS",
    {"MOSEC_ADDRESS": HOST, "MOSEC_LOG_LEVEL": "warning"},
    processes=True,
    environment=MOSEC_ENVIRONMENT,
)
LITSERVE = System(
    "litserve", "LitServe", "litserve_app", "BENCH_WORKERS", processes=True, environment=LITSERVE_ENVIRONMENT
)
LITSERVE_RESTARTING = System(
    "litserve",
    "LitServe, restart_workers",
    "litserve_app",
    "BENCH_WORKERS",
    {"BENCH_RESTART": "1"},
    processes=True,
    environment=LITSERVE_ENVIRONMENT,
)
"""By default LitServe ends its server with its first dead worker; this is its option for going on."""

SYSTEMS = (ASYNC_DEF, DEF, THREAD, ONE_THREAD, PROCESS, PPE, MOSEC, LITSERVE)

"""What is measured: the systems, how each is started, and how it is told its number of workers."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from environments import Environment

APPS = Path(__file__).resolve().parent / "apps"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class System:
    """One way to serve the same work.

    An application is one uvicorn process (uvloop, httptools, no access log), unless it brings its own server.
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
    own_server: bool = False
    """Whether it is a program that serves by itself."""
    broker: str = ""
    """What of `brokers.py` its parts meet at; empty: it has one part."""
    engine: str = ""
    """What stands before the broker's URL for offloop: whose workers they are, where they are not its own."""
    beside: tuple[tuple[str, ...], ...] = ()
    """Its workers, where they are programs of their own: commands that its packages install, and their arguments."""

    def command(self, port: int) -> list[str]:
        """How it is started; a missing environment is made first."""
        if self.own_server:
            return [self._python(), str(APPS / f"{self.app}.py")]
        return [
            *(self._python(), "-m", "uvicorn", f"{self.app}:app", "--app-dir", str(APPS)),
            *("--host", HOST, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        ]

    def commands_beside(self) -> list[list[str]]:
        """How its workers are started."""
        programs = Path(self._python()).parent
        return [[str(programs / program), *arguments] for program, *arguments in self.beside]

    def _python(self) -> str:
        return sys.executable if self.environment is None else str(self.environment.python())

    def variables(
        self, port: int, work: str, workers: int | None, turns: int, broker: str | None = None
    ) -> dict[str, str]:
        """The whole environment of its parts.

        Args:
            workers: None where it runs as it comes (one process, its own threads).
            broker: the URL of its broker.
        """
        ours = ("OFFLOOP_", "BENCH_", "MOSEC_", "PYTHON")  # what was set outside must not differ between systems
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        count = workers or (1 if self.processes else None)
        counted = {self.workers: str(count)} if count else {}
        asked = {"BENCH_PORT": str(port), "BENCH_WORK": work, "BENCH_TURNS": str(turns), "MOSEC_PORT": str(port)}
        met = {"BENCH_BROKER": broker, "OFFLOOP_BROKER_URL": f"{self.engine}{broker}"} if broker else {}
        return {**clean, **asked, **met, **counted, **self.env}


LITSERVE_ENVIRONMENT = Environment("litserve", ("litserve==0.2.19", "uvloop", "httptools"))
# Mosec validates nothing by itself; with pydantic its worker does the same work as everybody's.
MOSEC_ENVIRONMENT = Environment("mosec", ("mosec==0.9.8", f"pydantic=={version('pydantic')}", "uvloop", "httptools"))
_WEB = ("fastapi", "uvicorn", "uvloop", "httptools")
TASKIQ_ENVIRONMENT = Environment("taskiq", ("taskiq==0.13.0", "taskiq-redis==1.2.4", "redis[hiredis]", *_WEB))
FASTSTREAM_ENVIRONMENT = Environment("faststream", ("faststream[redis,nats,cli]==0.7.8", "redis[hiredis]", *_WEB))
ENVIRONMENTS = (LITSERVE_ENVIRONMENT, MOSEC_ENVIRONMENT, TASKIQ_ENVIRONMENT, FASTSTREAM_ENVIRONMENT)

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
    own_server=True,
)
LITSERVE = System(
    "litserve",
    "LitServe",
    "litserve_app",
    "BENCH_WORKERS",
    processes=True,
    environment=LITSERVE_ENVIRONMENT,
    own_server=True,
)
LITSERVE_RESTARTING = System(
    "litserve",
    "LitServe, restart_workers",
    "litserve_app",
    "BENCH_WORKERS",
    {"BENCH_RESTART": "1"},
    processes=True,
    environment=LITSERVE_ENVIRONMENT,
    own_server=True,
)
"""By default LitServe ends its server with its first dead worker; this is its option for going on."""

CLUSTER = System(
    "cluster",
    "cluster mode",
    "offloop_app",
    "OFFLOOP_WORKERS",
    {"OFFLOOP_MODE": "cluster"},
    processes=True,
    broker="redis",
    beside=(("offloop", "worker", "offloop_nodes"),),
)
HOLDING = replace(
    CLUSTER,
    name="cluster mode, beside what waits",
    env={
        **CLUSTER.env,
        "BENCH_PACKAGES": "offloop_nodes,holding_nodes",
        "OFFLOOP_QUEUE_LIMIT": "20000",
        "OFFLOOP_DRAIN_TIMEOUT": "0.5",
    },
    beside=(*CLUSTER.beside, ("offloop", "worker", "holding_nodes", "--pool", "holding")),
)
"""With another pool, whose one worker does not get on with what lies before it."""
TASKIQ = System(
    "taskiq",
    "taskiq, Redis Streams",
    "taskiq_app",
    "BENCH_WORKERS",
    processes=True,
    environment=TASKIQ_ENVIRONMENT,
    broker="redis",
    beside=(("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--log-level", "WARNING"),),
)
TASKIQ_EAGER = replace(TASKIQ, key="taskiq-eager", name="taskiq, asking every 2 ms", env={"BENCH_EVERY": "0.002"})
"""By default it looks every 200 ms whether a result is there. More often yet is no faster with many callers."""
FASTSTREAM_REDIS = System(
    "faststream-redis",
    "FastStream RPC, Redis",
    "faststream_app",
    "BENCH_WORKERS",
    processes=True,
    environment=FASTSTREAM_ENVIRONMENT,
    broker="redis",
    beside=(("faststream", "run", "faststream_app:service", "--log-level", "warning"),),
)
FASTSTREAM_NATS = replace(FASTSTREAM_REDIS, key="faststream-nats", name="FastStream RPC, NATS", broker="nats")
BEHIND_BROKERS = (CLUSTER, TASKIQ, TASKIQ_EAGER, FASTSTREAM_REDIS, FASTSTREAM_NATS)

SYSTEMS = (ASYNC_DEF, DEF, THREAD, ONE_THREAD, PROCESS, PPE, MOSEC, LITSERVE, *BEHIND_BROKERS)

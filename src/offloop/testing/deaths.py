"""Deaths: what a test does to a worker process. Owns `lose_worker`; nothing here tells what a death should mean."""

import asyncio

from offloop import assembly, errors
from offloop.app import Offloop
from offloop.orchestration.cluster import ClusterWorkforce
from offloop.orchestration.process import ProcessWorkforce

WITHIN = 10.0
"""Seconds that the event loop may take to do what a thread asks of it."""


def lose_worker(off: Offloop) -> int:
    """Kill a worker process as the system would that has run out of memory: by SIGKILL, without a word.

    It is the one that runs the most requests; where none runs any, any that is ready. What it runs ends as
    `WorkerLost`, or begins again where its endpoint is idempotent; another process takes its place.

    Args:
        off: in process mode, with a broker or without, and started. May be called on its event loop and from any other
            thread.

    Returns:
        The pid of the process.

    Raises:
        UsageError: `off` is in another mode or not started, or all its workers have just been lost.
    """
    if off.settings.mode != "process":
        raise errors.UsageError(
            f"lose_worker kills a worker process, and mode is {off.settings.mode}. Test in process mode: "
            f"OFFLOOP_MODE=process, or Offloop(…, settings=Settings(mode='process'))"
        )
    running = [runtime for runtime in tuple(assembly.alive) if runtime.gateway is off.gateway]
    if not running:
        raise errors.UsageError(
            "this Offloop is not started, and has no worker to lose. Enter it (or the TestClient of its app) first"
        )
    (runtime,) = running
    workforce = runtime.workforce
    assert isinstance(workforce, ProcessWorkforce | ClusterWorkforce)
    pid = workforce.lose() if _on(runtime.loop) else _elsewhere(runtime.loop, workforce)
    if pid is None:
        raise errors.UsageError(
            "no worker process of this Offloop is ready at this moment. Wait until `off.ready` is true again"
        )
    return pid


def _on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _elsewhere(loop: asyncio.AbstractEventLoop, workforce: ProcessWorkforce | ClusterWorkforce) -> int | None:
    async def lose() -> int | None:
        return workforce.lose()

    return asyncio.run_coroutine_threadsafe(lose(), loop).result(WITHIN)

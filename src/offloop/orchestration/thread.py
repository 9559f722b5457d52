"""Thread mode: loops in dedicated daemon threads of the web process.

Owns their threads and the services they share. Daemon threads, and never an executor's: the interpreter joins executor
threads at its exit, so that one node that never returns would keep the process alive for ever. A thread cannot be
ended from outside; a wedged loop is left to itself and told to end when its node returns.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from time import monotonic

from offloop import errors
from offloop.graph.services import Services
from offloop.messages import WorkerGone, WorkerUp
from offloop.runners.sync import SyncRunner
from offloop.transports.memory import MemoryTransport

log = logging.getLogger("offloop")

UNDO_WITHIN = 1.0
"""Seconds in which a start that failed half-way takes back what it had done."""


class ThreadWorkforce:
    """`ports.service.Workforce` for loops in threads.

    Args:
        threads: how many loops.
        transport: its worker side is given to the loops.
        services: opened before the loops start, closed after they have ended, in a thread of its own.
        runner: makes one loop, given its name.
    """

    def __init__(
        self, threads: int, transport: MemoryTransport, services: Services, runner: Callable[[str], SyncRunner]
    ) -> None:
        self._threads = threads
        self._transport = transport
        self._services = services
        self._runner = runner
        self._made = 0
        self._loops: dict[str, SyncRunner] = {}
        self._opened = False
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Build the services, then start the loops. Raises StartError, leaving nothing built."""
        self._loop = asyncio.get_running_loop()
        try:
            await _in_thread("offloop-services", self._open_services)
        except Exception as cause:
            raise errors.StartError(f"a service could not be built: {_line(cause)}") from cause
        try:
            for _ in range(self._threads):
                self._start_loop()
        except Exception as cause:
            await self.stop(UNDO_WITHIN)
            raise errors.StartError(f"a loop could not be started: {_line(cause)}") from cause

    def _open_services(self) -> None:
        self._services.open()
        self._opened = True
        if self._stopping:  # the start was given up meanwhile: nobody else would close them
            self._services.close()

    def _start_loop(self) -> None:
        self._made += 1
        name = f"loop-{self._made}"
        runner = self._runner(name)
        thread = threading.Thread(target=self._live, args=(runner,), name=f"offloop-{name}", daemon=True)
        # Before the thread: its first "begun" may not overtake the news that there is such a loop.
        self._transport.send(WorkerUp(name))
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            self._transport.send(WorkerGone(name, "no-thread"))
            raise
        self._loops[name] = runner

    def _live(self, runner: SyncRunner) -> None:
        """A loop's thread, from beginning to end."""
        try:
            runner.run(self._transport)
        finally:
            self._transport.send(WorkerGone(runner.name, "stopped"))
            self._tell(lambda: self._left(runner.name))

    def _left(self, name: str) -> None:
        del self._loops[name]
        if not self._loops:
            self._ended.set()

    def _tell(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("a loop ended after its event loop had closed")

    def replace(self, worker: str) -> None:
        """Leave the wedged loop to its node, and start a fresh one. Without effect once the loops are being stopped."""
        runner = self._loops.get(worker)
        if runner is None or self._stopping:
            return
        runner.stop()
        try:
            self._start_loop()
        except RuntimeError:
            log.exception("no loop could be started in the place of %s", worker)

    async def stop(self, timeout: float) -> int:
        """Let the loops end; those that do not in time are left behind, and die with the process."""
        give_up = monotonic() + timeout
        self._stopping = True
        for runner in self._loops.values():
            runner.stop()
        self._transport.nudge(len(self._loops))
        if self._loops:
            try:
                async with asyncio.timeout(timeout):
                    await self._ended.wait()
            except TimeoutError:
                log.warning("%d loops were still running a node when their time was up", len(self._loops))
        if self._opened and not self._loops:
            await self._close_services(max(0.0, give_up - monotonic()))
        return len(self._loops)

    async def _close_services(self, timeout: float) -> None:
        self._opened = False
        try:
            async with asyncio.timeout(timeout):
                await _in_thread("offloop-services", self._services.close)
        except TimeoutError:
            log.warning("the services were still closing when their time was up")
        except Exception:
            log.exception("a service failed while it was closed")


async def _in_thread(name: str, work: Callable[[], None]) -> None:
    """Run it in a daemon thread and wait. If the waiting is cancelled, the thread is left behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(failure: BaseException | None) -> None:
        if not done.done():
            done.set_exception(failure) if failure is not None else done.set_result(None)

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001  (told to whoever waits)
            # A future refuses StopIteration, and an event loop re-raises SystemExit: neither may pass as itself.
            harmless = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
            failure = raised if harmless else RuntimeError(f"{type(raised).__name__}: {raised}")
        try:
            loop.call_soon_threadsafe(settle, failure)
        except RuntimeError:
            log.debug("%s ended after its event loop had closed", name)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        await done
    finally:
        if done.done() and not done.cancelled():
            thread.join()  # it has told its outcome, and that is the last it does


def _line(failure: BaseException) -> str:
    """An exception on one line; the rest of what it says is in the traceback."""
    return f"{type(failure).__name__}: {failure}".splitlines()[0]

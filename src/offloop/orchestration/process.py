"""Process mode: loops in worker processes on this host.

Owns the workers' lives: started, ready or not, watched, ended, started again; which one takes whose place. What is sent
between the processes is the transport's, how long to wait before the next try is `core/respawn`'s, and what a death
means for requests is the gateway's.

It is longer than most files because all that may become of a worker is to be read in one place.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from offloop import errors
from offloop.clock import Clock
from offloop.core.respawn import Respawn
from offloop.events import STOPPED, WEDGED
from offloop.messages import WorkerGone, WorkerUp
from offloop.orchestration.child import UNKNOWN, Child, Ending, spawn
from offloop.orchestration.output import Output
from offloop.orchestration.worker import CODE, Place
from offloop.transports.local.frames import (
    Asks,
    Crowded,
    Disbelieved,
    Failed,
    Leaves,
    Progress,
    Ready,
    Said,
    Setup,
    Worn,
)
from offloop.transports.local.table import Table, shared_memory
from offloop.transports.local.web import LocalTransport

log = logging.getLogger("offloop")

HOME = str(Path(errors.__file__).parents[1])
"""Where offloop itself is imported from."""
START_WITHIN = 120.0
"""Seconds that a worker may take to import the program and build its services."""
SLOW = 10.0
"""Seconds after which a start that goes on is worth a line in the log, each time."""
END_WITHIN = 0.05
"""Seconds between a worker's silence and its end, after which it is killed."""
REAP_WITHIN = 2.0
"""Seconds for killed workers to be gone: all that the kernel may need to take their memory back."""
LOOK_EVERY = 1.0
"""Seconds between two looks for workers that are stopped, or that are to leave and do not."""
LEAVE_WITHIN = 5.0
"""Seconds that a worker may take to close its services and end."""
BUFFER = 2**20
"""Bytes to ask for as a work socket's buffer; the system gives what it allows. Large bodies go in fewer steps then."""
JITTER = 0.1
"""Workers are recycled after `MAX_REQUESTS` give or take this share, so that they do not all leave at once."""


@dataclass(eq=False)
class Worker:
    """One worker process.

    Attributes:
        tether: this end of a pipe, which only this process' end closes while the worker lives; see `child.tie`.
        replaces: who is to leave once this one is ready; "" for nobody.
        settled: whether it came up; an exception where it could not and has said so.
        doing: what it does before it is ready.
        cause: why it is ended, once it is; else its own end says why.
        killed: it did not end by itself.
        retired: it has a successor, and was told to end.
        resting_since: when a retired one was first seen to have nothing left to do; None: it has.
    """

    index: int
    name: str
    child: Child
    tether: int
    replaces: str
    launched_at: float
    settled: "asyncio.Future[bool]"
    doing: str = "starting"
    ready_at: float | None = None
    cause: str = ""
    stopped: bool = False
    lost: bool = False
    killed: bool = False
    retired: bool = False
    resting_since: float | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def __str__(self) -> str:
        return f"worker {self.index} (pid {self.child.pid})"

    def cancel_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class ProcessWorkforce:
    """`ports.service.Workforce` for loops in worker processes.

    Args:
        count: how many workers.
        loops: how many in each.
        places: how many requests one worker may hold.
        setup: what a worker is told, given its name.
        max_requests: recycle a worker after about so many; 0: never.
        start_within: seconds that a worker may take until it is ready.
        leave_within: seconds that one with a successor may take to end, once it has nothing left to do.
        elsewhere: told what loops say that take their work elsewhere: of their seats there, and of what they refuse.
    """

    def __init__(
        self,
        count: int,
        loops: int,
        places: int,
        transport: LocalTransport,
        setup: Callable[[str], Setup],
        *,
        clock: Clock,
        max_requests: int = 0,
        start_within: float = START_WITHIN,
        leave_within: float = LEAVE_WITHIN,
        elsewhere: Callable[[str, Asks | Leaves | Crowded | Disbelieved], None] = lambda *_: None,
    ) -> None:
        self._count = count
        self._loops = loops
        self._places = places
        self._transport = transport
        self._setup = setup
        self._clock = clock
        self._max_requests = max_requests
        self._start_within = start_within
        self._leave_within = leave_within
        self._elsewhere = elsewhere
        self._random = Random()
        self._output = Output()
        self._workers: dict[str, Worker] = {}
        self._respawns = [Respawn() for _ in range(count)]
        self._coming: dict[int, asyncio.Task[None]] = {}
        self._nobody_left = asyncio.Event()
        self._stopping = False
        self._look_timer: asyncio.TimerHandle | None = None

    # ---- coming up

    async def start(self) -> None:
        """Bring all workers up.

        A worker that says why it cannot start fails the start: it would say so again. One that dies without a word is
        tried again while the web process lives, and answers 503.

        Raises:
            StartError: nothing is left running.
        """
        self._output.start()
        self._look()
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._count):
                    group.create_task(self._first(index))
        except ExceptionGroup as failed:
            failure = failed.exceptions[0]
        if failure is not None:
            await self.stop(0.0)
            raise failure

    async def _first(self, index: int) -> None:
        try:
            worker = await self._launch(index)
        except Exception as fault:
            raise errors.StartError(f"a worker process could not be started: {_line(fault)}") from fault
        await worker.settled

    async def _launch(self, index: int, replaces: str = "") -> Worker:
        """Start a process, and take it under care.

        Raises OSError if the system has none to give, and anything where the user's code has a part in what it is told.
        """
        with ExitStack() as theirs, ExitStack() as ours:
            work, its_work = socket.socketpair()
            control, its_control = socket.socketpair()
            for line in (work, its_work):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            for line in (work, control):
                ours.callback(line.close)
            for line in (its_work, its_control):
                theirs.callback(line.close)
            memory = shared_memory(self._places)
            theirs.callback(os.close, memory)
            table = Table(memory)
            ours.callback(table.close)
            logs, its_logs = os.pipe()
            ours.callback(os.close, logs)
            theirs.callback(os.close, its_logs)
            its_tether, tether = os.pipe()
            ours.callback(os.close, tether)
            theirs.callback(os.close, its_tether)
            fds = (its_work.fileno(), its_control.fileno(), memory, its_logs, its_tether)
            place = Place(os.getpid(), index, *fds)
            env = {**os.environ, "OFFLOOP_WORKER_INDEX": str(index)}
            child = await spawn(CODE, HOME, *map(str, place), pass_fds=fds, env=env)
            loop = asyncio.get_running_loop()
            name = f"worker-{index}:{child.pid}"
            worker = Worker(index, name, child, tether, replaces, self._clock(), loop.create_future())
            try:
                # What may fail comes first: nobody would look after a child that is known by half.
                setup = self._setup(name)
                child.watch(partial(self._ended, worker))
                self._transport.attach(name, work, control, table, setup, self)
            except BaseException:
                child.close()
                await loop.run_in_executor(None, child.discard)
                raise
            ours.pop_all()
        self._workers[name] = worker
        self._nobody_left.clear()
        self._output.add(name, index, child.pid, child.stdout, child.stderr, logs)
        self._transport.limit(name, spread(self._max_requests, self._random))
        worker.timers.append(loop.call_later(self._start_within, self._too_slow, worker))
        worker.timers.append(loop.call_later(SLOW, self._slow, worker))
        return worker

    def _slow(self, worker: Worker) -> None:
        took = self._clock() - worker.launched_at
        log.warning("%s is not ready after %.0f s: it is %s", worker, took, worker.doing)
        worker.timers.append(asyncio.get_running_loop().call_later(SLOW, self._slow, worker))

    def _too_slow(self, worker: Worker) -> None:
        line = f"a worker was not ready within {self._start_within:g} s: it was {worker.doing}"
        log.error("%s is killed: %s", worker, line)
        self._fail(worker, line)
        self._end(worker, "start-failed")

    def _fail(self, worker: Worker, line: str) -> None:
        if not worker.settled.done():
            worker.settled.set_exception(errors.StartError(line))
            worker.settled.exception()  # nobody but the first start waits for it

    # ---- what they say: transports.local.web.Attendant

    def said(self, name: str, said: Said) -> None:
        worker = self._workers[name]
        if worker.ready_at is not None and isinstance(said, Progress | Ready | Failed):
            self._garbled(worker, f"it sent a {type(said).__name__} though it was ready")
        elif isinstance(said, Progress):
            worker.doing = said.doing
            log.debug("%s is %s", worker, said.doing)
        elif isinstance(said, Ready):
            self._ready(worker)
        elif isinstance(said, Worn):
            self.worn(name)
        elif isinstance(said, Asks | Leaves) and said.loop not in range(self._loops):
            self._garbled(worker, f"it sent a {type(said).__name__} of a loop that it has not")
        elif isinstance(said, Asks | Leaves | Crowded | Disbelieved):
            self._elsewhere(name, said)
        else:
            log.error("%s cannot start: %s\n%s", worker, said.line, said.trace.rstrip())
            worker.cause = worker.cause or "start-failed"
            self._fail(worker, said.line)

    def _ready(self, worker: Worker) -> None:
        worker.cancel_timers()
        worker.ready_at = self._clock()
        log.info("%s is ready after %.2f s", worker, worker.ready_at - worker.launched_at)
        before = self._workers.get(worker.replaces)
        self._transport.report(WorkerUp(worker.name, self._loops, worker.replaces, worker.index))
        if before is not None:
            before.cause = before.cause or "recycled"
            before.retired = True
            self._transport.finish(before.name)
        if not worker.settled.done():
            worker.settled.set_result(True)

    def silent(self, name: str, why: str) -> None:
        worker = self._workers[name]
        if why:
            self._garbled(worker, why)
        else:
            # Its end is a moment away; if it only closed its socket, it is made so.
            worker.timers.append(asyncio.get_running_loop().call_later(END_WITHIN, self._end, worker, "silent"))

    def _garbled(self, worker: Worker, why: str) -> None:
        if not worker.killed:
            log.error("%s is killed: %s", worker, why)
        self._end(worker, "garbled")

    def worn(self, name: str) -> None:
        worker = self._workers[name]
        log.info("%s has had its share of requests, and is recycled", worker)
        self._come(worker.index, 0.0, replaces=name)

    # ---- going down

    def replace(self, worker: str) -> None:
        """Kill it; its end brings up another."""
        if (wedged := self._workers.get(worker)) is not None:
            wedged.cause = WEDGED  # whatever else it was to end for
            self._end(wedged, WEDGED)

    def living(self) -> list[str]:
        """The workers that are ready, and neither stopped nor about to end for it."""
        return [
            worker.name
            for worker in self._workers.values()
            if worker.ready_at is not None and not worker.child.stopped()
        ]

    def halted(self, name: str) -> bool:
        """Whether it is stopped, or is no more."""
        worker = self._workers.get(name)
        return worker is None or worker.child.stopped()

    def lose(self) -> int | None:
        """Kill the worker that runs the most, as if its end had come from outside: for tests. Its pid; None: no such.

        One that is killed is not chosen again, though its end may be noticed a moment later.
        """
        there = [w for w in self._workers.values() if w.ready_at is not None and not w.cause and not w.lost]
        if not there:
            return None
        busiest = max(there, key=lambda worker: self._transport.runs(worker.name))
        busiest.lost = True
        busiest.child.kill()
        return busiest.child.pid

    def _end(self, worker: Worker, cause: str) -> None:
        worker.cause = worker.cause or cause
        worker.killed = worker.killed or worker.child.ending is None
        worker.child.kill()

    def _ended(self, worker: Worker, ending: Ending) -> None:
        """Its process has ended, whatever the cause."""
        running, handed = self._transport.running(worker.name), self._transport.handed(worker.name)
        worker.killed = worker.killed and ending.code is None  # or it was there first
        by_itself = ending.code is not None or (ending == UNKNOWN and not worker.killed)
        asked = worker.cause in (STOPPED, "recycled") and by_itself and not ending.code
        announced = worker.cause == "start-failed" and by_itself
        given_up = self._stopping and worker.ready_at is None
        worker.cause = worker.cause or ("died" if worker.ready_at is not None else "start-failed")
        if asked or announced or given_up:
            self._output.left(worker.name)
        else:
            self._output.died(worker.name, _obituary(worker, ending, running))
        self._transport.detach(worker.name, worker.cause)
        worker.cancel_timers()
        worker.child.close()
        os.close(worker.tether)
        del self._workers[worker.name]
        if not worker.settled.done():
            worker.settled.set_result(False)
        self._succeed(worker, handed)
        if not self._workers:
            self._nobody_left.set()

    def _succeed(self, worker: Worker, handed: int) -> None:
        """See to it that its place is taken again, or that who was to leave for it does so in the end."""
        if self._stopping:
            return
        failed = worker.ready_at is None
        before = worker.replaces if failed and worker.replaces in self._workers else ""
        others = any(other.index == worker.index and not other.cause for other in self._workers.values())
        if others and not before:
            return
        lived = None if worker.ready_at is None else self._clock() - worker.ready_at
        delay = self._respawns[worker.index].delay(lived=lived, handed=handed, random=self._random.random())
        if delay:
            log.warning("worker %d is started again in %.1f s", worker.index, delay)
        self._come(worker.index, delay, before)

    def _come(self, index: int, delay: float, replaces: str = "") -> None:
        if not self._stopping and index not in self._coming:
            bringing = self._bring(index, delay, replaces)
            self._coming[index] = asyncio.get_running_loop().create_task(bringing)

    async def _bring(self, index: int, delay: float, replaces: str) -> None:
        try:
            while True:
                await asyncio.sleep(delay)
                try:
                    await self._launch(index, replaces)
                except Exception as fault:  # whatever it was, it may be gone at the next try
                    delay = self._respawns[index].delay(lived=None, handed=0, random=self._random.random())
                    log.error(
                        "worker %d cannot be started, and is tried again in %.1f s: %s", index, delay, _line(fault),
                        exc_info=not isinstance(fault, OSError),
                    )  # fmt: skip
                    self._transport.report(WorkerGone(f"worker-{index}", "start-failed"))
                else:
                    return
        finally:
            # Here, and not in a callback: its worker may have ended by then, and somebody must see to its place.
            del self._coming[index]

    def _look(self) -> None:
        """A stopped process says nothing, ends nothing, and may be continued at any time: twice seen, it is killed.

        Once is not enough: when a terminal continues a whole job, the web process may be the first to run.
        """
        for worker in tuple(self._workers.values()):
            stopped = worker.child.stopped()
            if stopped and worker.stopped and not worker.killed:
                worker.cause = "suspended"  # also where it was to end
                self._end(worker, "suspended")
            worker.stopped = stopped
            self._see_off(worker)
        self._look_timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _see_off(self, worker: Worker) -> None:
        """One that is to leave may be kept for ever, by a service that does not close or a thread that nobody ends.

        Nobody waits for it, and so nobody would miss its end: workers would pile up, a generation at a time.
        """
        if not worker.retired or worker.killed:
            return
        now = self._clock()
        if not self._transport.rests(worker.name):
            worker.resting_since = None
            return
        if worker.resting_since is None:
            worker.resting_since = now
        if now - worker.resting_since >= self._leave_within:
            self._end(worker, "recycled")

    async def stop(self, timeout: float) -> int:
        """Let every worker end what it has and close its services, and kill those that do not in time, or are stopped.

        Returns how many of those that were ready were killed.
        """
        self._stopping = True
        coming = tuple(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        asked = [worker for worker in self._workers.values() if worker.ready_at is not None and not worker.killed]
        for worker in tuple(self._workers.values()):
            if worker.ready_at is None:
                self._end(worker, STOPPED)
            else:
                worker.cause = worker.cause or STOPPED
                self._transport.finish(worker.name)
        await self._nobody(timeout)
        for worker in tuple(self._workers.values()):
            if not worker.killed:
                worker.cause = STOPPED
            self._end(worker, STOPPED)
        await self._nobody(REAP_WITHIN)
        if self._look_timer is not None:
            self._look_timer.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._output.close, REAP_WITHIN)
        return sum(worker.killed for worker in asked)

    async def _nobody(self, timeout: float) -> None:
        if self._workers:
            try:
                async with asyncio.timeout(timeout):
                    await self._nobody_left.wait()
            except TimeoutError:
                log.debug("%d workers are left", len(self._workers))


def spread(max_requests: int, random: Random) -> int:
    """After how many requests one worker is recycled; 0: never."""
    return max_requests and max(1, round(max_requests * random.uniform(1 - JITTER, 1 + JITTER)))


def _line(fault: Exception) -> str:
    """What the system says is to be read as it is; of anything else, the kind matters most."""
    return str(fault) if isinstance(fault, OSError) else f"{type(fault).__name__}: {fault}"


def _obituary(worker: Worker, ending: Ending, running: list[str]) -> str:
    """For the log: what happened to it, and to whom."""
    how = {
        "died": f"died: {ending}",
        "start-failed": f"died before it was ready, {worker.doing}: {ending}",
        WEDGED: "was killed: a node ran past its deadline and the grace after it",
        "suspended": "was killed: it had been stopped, as by SIGSTOP",
        "silent": "was killed: it had closed its socket",
        "garbled": "was killed: what it sent could not be understood",
        "recycled": "was killed: it was to be recycled, had nothing left to do, and did not end"
        if worker.killed
        else f"was to be recycled, and died: {ending}",
        STOPPED: "was killed: it had not ended when the time to stop was up",
    }[worker.cause]
    if worker.cause == "died" and ending.signal == signal.SIGKILL:
        how += " (out of memory, perhaps)"
    return f"{worker} {how}; it was running {', '.join(running) or 'nothing'}"

"""The web side of the local transport: `WorkSink` and `ReplySource` over the sockets of all worker processes.

Owns the links to the workers, who was handed what, and what of it has begun as far as the workers' tables tell. It
never blocks: what a worker does not take waits here, and a worker is not handed more than a few requests. It starts and
ends no process; what a link has to say of its worker it says to whoever attached it.

Events of a request's beginning and end are told here, from the evidence: a worker that is killed cannot tell its own.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from offloop.clock import Clock, monotonic
from offloop.errors import Cancelled, PayloadTooLarge
from offloop.events import Event, Events, Kind
from offloop.messages import Begun, Envelope, Freed, Outcome, Refused, Report, Withdrawn, WorkerGone
from offloop.transports.local.frames import (
    Asks,
    Cancel,
    Crowded,
    Disbelieved,
    Failed,
    Grant,
    Leaves,
    Progress,
    Ready,
    Reported,
    Setup,
    Sit,
    Stand,
    Stop,
    Withdraw,
    Worn,
    plain,
    work,
)
from offloop.transports.local.link import Attendant, Held, Link
from offloop.transports.local.table import Table

log = logging.getLogger("offloop")

SAID = (Progress, Ready, Worn, Asks, Leaves, Crowded, Disbelieved, Failed)
"""What is for a worker's attendant, and not for the gateway."""
LOOK_EVERY = 0.001
"""Seconds between two looks at the sockets that `settle` takes: each costs a system call for every worker."""


class LocalTransport:
    """The web side's ends of all workers. Used on one event loop only.

    Args:
        loop: the event loop.
        events: where beginnings and ends are told.
        max_report: bytes of the largest payload that a worker may send.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, events: Events, max_report: int, clock: Clock = monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._max_report = max_report
        self._links: dict[str, Link] = {}
        self._held: dict[str, Held] = {}
        self._unbegun: dict[str, Held] = {}
        self._dirty: list[Link] = []
        self._looked_at = 0.0
        self._receive: Callable[[Sequence[Report]], None] = lambda _: None
        kinds: tuple[Kind, ...] = ("dequeue", "start")
        self._on_begin = [(kind, see) for kind in kinds for see in events.of(kind)]
        self._on_finish = events.of("finish")

    # ---- workers come and go

    def attach(
        self, name: str, work: socket.socket, control: socket.socket, table: Table, setup: Setup, attendant: Attendant
    ) -> None:
        """Take a worker's sockets, tell it what it has to know, and listen to it; if this raises, none of it."""
        told = plain(setup)
        for line in (work, control):
            line.setblocking(False)
        link = Link(self._loop, name, work, control, table, attendant, self._max_report)
        self._loop.add_reader(work.fileno(), self._readable, link)
        self._links[name] = link
        link.work.tell(told)

    def limit(self, name: str, requests: int) -> None:
        """Tell its attendant when it has been handed so many."""
        self._links[name].limit = requests

    def report(self, report: Report) -> None:
        """What no worker has sent: that one is up."""
        self._receive((report,))

    def finish(self, name: str) -> None:
        """It is to end when everything that it was handed has ended."""
        if (link := self._links.get(name)) is not None:
            link.work.order(Stop())

    def running(self, name: str) -> list[str]:
        """What it has begun and not finished, in words."""
        return [
            f"{held.endpoint} ({held.rid})"
            for held in self._held.values()
            if held.link.name == name and self._has_begun(held)
        ]

    def runs(self, name: str) -> int:
        """How many requests it runs, wherever it has them from."""
        link = self._links[name]
        return len(self.running(name)) if link.handed else sum(map(bool, link.table))

    def rests(self, name: str) -> bool:
        """Whether it has nothing to do, wherever it has its work from."""
        link = self._links[name]
        return not (link.holds if link.handed else any(link.table))

    def handed(self, name: str) -> int:
        """How many requests it was handed so far; of those it has taken elsewhere, those that it runs now."""
        link = self._links[name]
        return link.handed or sum(map(bool, link.table))

    def tell(self, name: str, order: Cancel | Grant | Sit | Stand) -> None:
        """An order for a request that it has taken elsewhere, or for a loop that does so."""
        if (link := self._links.get(name)) is not None:
            link.control.order(order)

    def holds(self, name: str, loop: int) -> float:
        """The deadline of what that loop has from elsewhere; 0.0: nothing."""
        return self._links[name].table[loop]

    def deadlines(self) -> dict[str, float]:
        """Of what each worker runs that takes its work elsewhere, the one that is first; none for an idle one."""
        return {
            name: min(running)
            for name, link in self._links.items()
            if (running := [deadline for deadline in link.table if deadline])
        }

    def detach(self, name: str, cause: str) -> None:
        """Its process has ended: read all that it has left behind, report that it is gone, and let go of it."""
        link = self._links.get(name)
        if link is None:
            return
        reports: list[Report] = []
        while not link.silent and (came := self._read(link)) is not None:
            reports += came
        self._see_begun(reports, link)
        self._loop.remove_reader(link.line.fileno())
        link.work.close()
        link.control.close()
        for held in [held for held in self._held.values() if held.link is link]:
            del self._held[held.rid]
            self._unbegun.pop(held.rid, None)
        del self._links[name]
        marks = link.table.marks()
        link.table.close()
        self._receive((*reports, WorkerGone(name, cause, marks)))

    def close(self) -> None:
        """Nothing is taken or delivered any more. Workers that are left see the end of their sockets."""
        self._receive = lambda _: None
        for name in tuple(self._links):
            self.detach(name, "")

    # ---- WorkSink

    def put(self, envelope: Envelope, worker: str | None) -> None:
        link = self._links.get(worker or "")
        if link is None:
            return
        rid, place, number = envelope.rid, link.places[-1], link.handed + 1
        try:
            frame = work(envelope, place, number)
        except ValueError as fault:  # a query or a file's name without measure: no worker would take it
            log.warning("a request to %s cannot be sent: %s", envelope.endpoint, fault)
            self._loop.call_soon(self.report, Refused(rid, PayloadTooLarge.reason))  # whoever puts is not to be called
            return
        link.places.pop()
        link.table[place] = 0.0
        link.handed = number
        link.holds += 1
        if link.holds == 1:
            link.work.send(number, frame)  # its worker is idle: while it wakes up, there is time for the rest
        else:
            link.work.unsent[number] = frame
            if link not in self._dirty:
                if not self._dirty:
                    self._loop.call_soon(self._flush)
                self._dirty.append(link)
        self._held[rid] = self._unbegun[rid] = Held(
            rid, envelope.attempt, envelope.endpoint, envelope.deadline, link, place, number
        )
        if number == link.limit:
            link.attendant.worn(link.name)

    def withdraw(self, rid: str) -> bool | None:
        held = self._held.get(rid)
        if held is None or self._has_begun(held):
            return False
        if held.link.work.unsent.pop(held.number, None) is not None:
            self._forget(held)
            return True
        if not held.asked:
            held.asked = True
            held.link.control.order(Withdraw(rid, held.number))
        return None

    def cancel(self, rid: str) -> None:
        held = self._held.get(rid)
        if held is not None:
            held.link.control.order(Cancel(rid))

    def grant(self, rid: str, room: int) -> None:
        held = self._held.get(rid)
        if held is not None:
            held.link.control.order(Grant(rid, room))

    def cut(self) -> None:
        """Each withdrawal is answered as any."""

    def settle(self) -> None:
        reports: list[Report] = []
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY:
            # In an overload one turn of the event loop refuses hundreds, and idle workers must not wait for its end.
            self._looked_at = now
            for link in tuple(self._links.values()):
                if link.holds and not link.silent:
                    reports += self._read(link) or ()
        self._see_begun(reports)
        if reports:
            self._receive(reports)

    # ---- ReplySource

    def subscribe(self, receive: Callable[[Sequence[Report]], None]) -> None:
        self._receive = receive

    def _readable(self, link: Link) -> None:
        if reports := self._read(link):
            self._receive(reports)

    def _read(self, link: Link) -> list[Report] | None:
        """Read once; None if there is nothing now, or nothing any more."""
        try:
            came = link.reader.read(link.line)
        except BlockingIOError:
            return None
        except OSError:  # ended with orders that it had not read
            came = None
        if came is None:
            self._silence(link, "")
            return None
        reports: list[Report] = []
        for one in came:
            if type(one) is Outcome or not isinstance(one, SAID):  # the usual case first: the rest takes a look each
                self._reported(link, one, reports)
            else:
                link.attendant.said(link.name, one)
        if link.reader.fault is not None:
            self._silence(link, f"it sent {link.reader.fault}")
        return reports

    def _silence(self, link: Link, why: str) -> None:
        link.silent = True
        self._loop.remove_reader(link.line.fileno())
        link.attendant.silent(link.name, why)

    def _reported(self, link: Link, report: Reported, reports: list[Report]) -> None:
        held = self._held.get(report.rid)
        if isinstance(report, Withdrawn):
            if held is None or held.link is not link:
                return  # asked to be taken back, it had ended meanwhile
            if report.begun is False:
                self._forget(held)
        elif held is None or held.link is not link or held.attempt != report.attempt:
            # Of another's request, or of none: a worker that is out of its mind speaks for nobody but itself.
            log.warning("%s reported on a request that it does not hold; the report is dropped", link.name)
            return
        else:
            outcome = report if type(report) is Outcome else None
            last = outcome.last if outcome is not None else type(report) is Freed
            told = outcome is None or not last  # an outcome that is the last says itself when it began
            if (told or self._on_begin) and report.rid in self._unbegun:
                self._begins(held, reports, told=told)
            if outcome is not None:
                if told or self._on_finish:
                    self._finishes(held, outcome)
            elif last and not held.finished:
                # Nobody waits for it, and so its worker has sent no outcome.
                self._finishes(held, Outcome(held.rid, Cancelled.reason, ended_at=self._clock()))
            if last:
                self._forget(held)
        reports.append(report)

    # ---- what has begun

    def _has_begun(self, held: Held) -> bool:
        return held.link.table[held.place] != 0.0

    def _see_begun(self, reports: list[Report], only: Link | None = None) -> None:
        for held in tuple(self._unbegun.values()):
            if (only is None or held.link is only) and self._has_begun(held):
                self._begins(held, reports, told=True)

    def _begins(self, held: Held, reports: list[Report], *, told: bool) -> None:
        """It has begun, which nobody has told yet."""
        del self._unbegun[held.rid]
        at = held.link.table[held.place]
        if told:
            reports.append(Begun(held.rid, held.attempt, held.link.name, at))
        for kind, see in self._on_begin:
            see(Event(t=at, kind=kind, rid=held.rid, endpoint=held.endpoint, attempt=held.attempt,
                      deadline=held.deadline, worker=held.link.name))  # fmt: skip

    def _finishes(self, held: Held, outcome: Outcome) -> None:
        held.finished = True
        for see in self._on_finish:
            see(Event(t=outcome.ended_at, kind="finish", rid=held.rid, endpoint=held.endpoint, attempt=held.attempt,
                      deadline=held.deadline, outcome=outcome.reason, size=len(outcome.payload),
                      worker=held.link.name))  # fmt: skip

    def _forget(self, held: Held) -> None:
        """Its worker holds it no more."""
        link = held.link
        del self._held[held.rid]
        self._unbegun.pop(held.rid, None)
        link.places.append(held.place)
        link.holds -= 1

    # ---- out

    def _flush(self) -> None:
        """Once in a turn of the event loop: what was put for a busy worker goes out together, and wakes it once."""
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            link.work.push()

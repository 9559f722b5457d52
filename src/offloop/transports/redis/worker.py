"""The worker side of the Redis transport: `WorkSource` and `ReplySink` of one loop.

Owns one blocking connection, the request that the loop has, what it has read ahead, and what of it all is told when.
An idle loop waits at the broker itself, and asks for no more than it can begin within `AHEAD`. The replies of what has
ended and the wait for the next go out together. Leases are renewed elsewhere, where nothing that a node does can be in
the way; here it is checked, by this host's own clock, that the lease holds when a request begins.

It is longer than most files because all that one loop and its connection share is to be read in one place.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec

from offloop.core.durations import AHEAD, ANY, Durations
from offloop.messages import Begun, Chunk, Freed, Outcome, Progressed, Report, Requeued, Withdrawn
from offloop.transports.backoff import Backoff
from offloop.transports.outcomes import written
from offloop.transports.parcels import NotOurs, Refusals, Returned, parcels, returns
from offloop.transports.redis import scripts
from offloop.transports.redis.desk import Desk, RedisDelivery
from offloop.transports.redis.link import BELIEVED
from offloop.transports.redis.names import GROUP, LEASE, consumer, mark_of
from offloop.transports.redis.reaping import dead_letter
from offloop.transports.redis.seat import Waits
from offloop.transports.redis.wire import BrokerError, Command, Line, Reply, ReplyError

log = logging.getLogger("offloop")

WAITS = 0.4
"""Seconds that an idle loop waits at the broker before it looks whether it is to stop."""
HOLDS = 2 * LEASE / 3
"""Seconds after a question for work for which what was given in answer is surely ours: a lease begins after it."""
QUICK = 10_000
"""Microseconds of work of which the beginning is not told apart from the end: a message costs a share of that."""
LATE = 1.0
"""Seconds beyond `WAITS` in which a broker may still serve a connection that was given up here."""
OLD = 1.0
"""Seconds past its deadline after which a signed request was not sent by who signed it: that one takes it back then."""
BEHIND = 0.01
"""Seconds that a request may run while others lie behind it, or replies that nobody has been told."""
FOREIGN, STRANGE = 0.001, 0.05
"""Seconds, about, before the next question, once what was given had to be given back: another is to have it. Doubled
for each in a row: between two of one's own a wait is lost capacity; with none of one's own it is all there is."""


class Ended(NamedTuple):
    """What is to be told of one that has ended, and until when somebody may wait for it.

    Attributes:
        id: the broker's; None where it has been answered, and its loop goes on with what is left.
    """

    id: bytes | None
    told: Command | None
    until: float


class RedisSource:
    """Of one loop; `get` and the end of what it gives belong to the loop's thread.

    Args:
        number: the loop's, from 0.
    """

    def __init__(self, desk: Desk, number: int) -> None:
        self.desk = desk
        self._number = number
        self._consumer = consumer(desk.name, number)
        self._stream = desk.names.requests(desk.pool)
        self._parcels = parcels(desk.keys, desk.max_body)
        self._returns = returns(desk.keys, desk.max_reply)
        self._refusals = Refusals("a request", desk.clock)
        self._clock = desk.clock
        self._random = Random()
        self._durations = Durations()
        self._seat = desk.seat(number)
        self._waits = Waits()
        self._handled = 0  # since the last question
        self._writing = threading.RLock()
        self._line: Line | None = None
        self._backoff = Backoff()
        self._job: RedisDelivery | None = None
        self._ahead: deque[RedisDelivery] = deque()
        self._ended: list[Ended] = []  # until the broker has it
        self._offset = math.inf
        self._read_at = 0.0  # when that was found
        self._asked = 0.0  # when the last question went out
        self._torn = False  # whether stream messages of this request may have been lost with a connection
        self._unsure_until = -math.inf  # until when a request may yet be given to this loop that it does not see
        self._unsure = False
        self._foreign = FOREIGN
        self._told_again_at = -math.inf  # while a node runs, not before that
        self._over = threading.Event()

    def stop(self) -> None:
        """`get` gives nothing more, and does not wait. For any thread."""
        self._over.set()
        self._seat.wake()

    @property
    def stopped(self) -> bool:
        return self._over.is_set()

    # ---- WorkSource

    def get(self, timeout: float) -> RedisDelivery | None:
        """One request, or None: none has come in a while, or the broker cannot be reached."""
        self._finish()
        if self._over.is_set():
            self._let_others()
            return None
        if not self._ahead and self._may_ask(timeout):
            self._read(timeout)
        return self._next()

    def _may_ask(self, timeout: float) -> bool:
        """Whether it asks for work now, or stands while others of this host do: see `core/seats`."""
        seat = self._seat
        if not seat.matters:
            return True
        self._waits.end(self._handled)
        self._handled = 0
        if self._waits.often or self._durations.expected(ANY) > AHEAD:
            seat.leave()
        elif not (seat.taken or self._unsure):
            self._let_others()  # nobody is to wait for what has ended
            if not seat.wait(timeout) or self._over.is_set():
                self._keep_warm()
                return False
        return True

    def _keep_warm(self) -> None:
        """A connection over which nothing passes may be forgotten in between, and nobody here would know."""
        self.desk.idle()
        asked = None if self._over.is_set() else self._exchange([("TIME",)])
        if asked and not isinstance(asked[0], ReplyError):
            self._set_clock(asked[0], self._asked)

    def _next(self) -> RedisDelivery | None:
        """The next of what was read. What may take long is begun alone: others are to have what lies behind it."""
        while True:
            try:
                delivery = self._ahead.popleft()
            except IndexError:
                return None
            if self.desk.keys and not self._is_first(delivery):
                continue
            if (self._ahead or self._ended) and self._durations.expected(delivery.envelope.endpoint) > AHEAD:
                self._let_others()
            self._job = delivery
            self._torn = False
            self._told_again_at = -math.inf
            if self._line is not None:
                self._line.refused = 0
            return delivery

    def _read(self, timeout: float) -> None:
        """Tell what has ended, and ask for more: for what was given before and not seen, where that may be."""
        waits = min(timeout, WAITS)
        looks = self._unsure
        many = max(1, min(1 + self.desk.read_ahead, AHEAD // self._durations.expected(ANY)))
        reads: Command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", many)
        new: Command = (*reads, "BLOCK", max(1, round(waits * 1000)), "STREAMS", self._stream, ">")
        given: Command = (*reads, "STREAMS", self._stream, "0")
        with self._writing:  # nobody else tells the same meanwhile
            count, told = len(self._ended), self._tells(self._ended)
            replies = self._exchange([*told, ("TIME",), given if looks else new], 0.0 if looks else waits)
            heard = replies is not None and self._heard(count, replies[:-2])
        if replies is None:
            self._seat.leave()  # another, over another connection, may do better
            self._outlive(count)
            self.desk.idle()
            self._over.wait(self._backoff.delay())
            return
        now, read = replies[-2:]
        if not heard:
            self._doubt()  # what was read beside it is read again
            self._over.wait(self._backoff.delay())
            return
        asked = self._asked
        self._set_clock(now, asked)
        if looks and not isinstance(read, ReplyError) and not read[0][1]:
            self._unsure = self._clock() < self._unsure_until
            read = (self._exchange([new], waits) or [None])[0]
            asked = self._asked
        elif looks:
            asked = -math.inf  # it was given a while ago: its lease may be at its end
        self._take(read, asked)
        if self._seat.matters:
            if self._ahead and self._seat.taken and not looks:
                self._seat.lain(_lain(self._ahead[0], now), asked)
            self._waits.begin()

    def _set_clock(self, told: Reply, asked: float) -> None:
        """A reading is late by what the question took, never early, so that no deadline is put off by it.

        The least late counts, but not for ever: clocks drift, and are set.
        """
        offset = int(told[0]) + int(told[1]) / 1e6 - asked
        if offset < self._offset or asked - self._read_at > BELIEVED:
            self._offset, self._read_at = offset, asked

    def _doubt(self) -> None:
        """This loop may have been given something that it has not seen: it looks, until that cannot be any more."""
        self._unsure = True
        self._unsure_until = self._clock() + WAITS + LATE
        while self._ahead:  # found again then
            self._desk_closed(self._ahead.popleft())

    def _take(self, reply: Reply, asked: float) -> None:
        if isinstance(reply, ReplyError):
            if str(reply).startswith("NOGROUP"):
                self._exchange([("XGROUP", "CREATE", self._stream, GROUP, "0", "MKSTREAM")])
            else:
                log.warning("the broker gives no work: %s", reply)
                self._over.wait(self._backoff.delay())
            return
        self._backoff.reset()
        if not reply:
            self.desk.idle()
            return
        foreign = [again for id_, fields in reply[0][1] if (again := self._sort(id_, fields, asked)) is not None]
        if self._ahead:
            self._foreign = FOREIGN
        if foreign and (replies := self._exchange(foreign)) is not None:
            self._given_back(replies)
        if foreign and not self._ahead:
            self._over.wait(self._foreign * (0.5 + self._random.random()))
            self._foreign = min(STRANGE, 2 * self._foreign)

    def _sort(self, id_: bytes, fields: Sequence[Reply] | None, asked: float) -> Command | None:
        """What becomes of one entry: this loop has it, it has ended, or it is given back by the command in answer."""
        if fields is None:  # taken back between its delivery and now
            self._end(id_)
            return None
        try:
            parcel, too_large = self._parcels.read_any(self._stream, fields)
        except NotOurs as fault:
            self._disbelieve(id_, fault)
            return None
        envelope, inbox = parcel.envelope, self.desk.names.inbox(parcel.envelope.reply_to)
        deadline = parcel.expires - self._offset
        delivery = RedisDelivery(
            msgspec.structs.replace(envelope, deadline=deadline), id_, inbox, fields,
            expires=parcel.expires, asked=asked, begins=self._begins,
        )  # fmt: skip
        if self._clock() >= deadline:  # asked first: what nobody has is not handed on for ever
            if self.desk.keys and envelope.reply_to and self._clock() >= deadline + OLD:
                self._disbelieve(id_, NotOurs("its time was over before it came"))
            else:
                self._too_late(delivery)
        elif self.desk.fingerprints.get(envelope.endpoint) != parcel.fingerprint:
            # Another has it, or will have once a deployment is through: back, at the end, for whoever that is.
            return self._again(delivery)
        elif too_large is not None:
            self._disbelieve(id_, too_large)
        else:
            self._ahead.append(delivery)
            self.desk.opened(envelope.rid, delivery)
        return None

    def _disbelieve(self, id_: bytes, fault: NotOurs) -> None:
        """It is dropped, and nobody is answered."""
        self._refusals.add(fault)
        self.desk.disbelieved()
        self._end(id_)

    def _too_late(self, delivery: RedisDelivery) -> None:
        """It never begins. Whoever waits is told; for a dead letter that was sent again nobody does, and it is kept."""
        envelope, inbox = delivery.envelope, delivery.inbox
        if envelope.reply_to:
            self._end(delivery.id, self._tell(inbox, Withdrawn(envelope.rid, begun=False)), envelope.deadline)
            return
        log.warning("no worker has taken a dead letter in time (%s): it is one again", envelope.endpoint)
        self._end(delivery.id, dead_letter(self.desk.names, self.desk.pool, delivery.fields), math.inf)

    def _begins(self, delivery: RedisDelivery) -> bool:
        """Whether it is still ours, and somebody waits. From then on it counts as begun, whatever becomes of us."""
        if delivery.cancelled or not self._holds(delivery):
            return False
        self.desk.begins(self._number, delivery.id)
        return True

    def _holds(self, delivery: RedisDelivery) -> bool:
        """Whether its lease holds. Beyond the time for which that is sure, the broker is asked."""
        if self._clock() - delivery.asked < HOLDS:
            return True
        # Renewed first, if it is: else it might be lost to another at this very moment.
        renewed = scripts.renew(self._stream, [self._consumer])
        id_ = delivery.id
        replies = self._exchange([renewed, ("XPENDING", self._stream, GROUP, id_, id_, 1, self._consumer)])
        if not replies or isinstance(replies[-1], ReplyError) or not replies[-1]:
            log.warning("a request is not begun (%s): this process has been paused for too long", delivery.envelope.rid)
            return False
        return True

    def _is_first(self, delivery: RedisDelivery) -> bool:
        """A signature says who wrote it, and not how often: what was seen once is refused until it is too old.

        Where the broker has gone, that cannot be known now, and it is looked for again. Asked twice, because a
        connection that breaks may have taken the question, and not the answer; which entry was first is written down,
        so that it is not refused then.
        """
        envelope, id_ = delivery.envelope, delivery.id
        key = self.desk.names.seen(envelope.rid, envelope.attempt)
        asked: list[Command] = [("SET", key, id_, "NX", "PXAT", round(delivery.expires * 1000) + 1000), ("GET", key)]
        replies = self._exchange(asked) or self._exchange(asked)
        self._waits.passes_over()
        if replies is not None and replies[-1] == id_:
            return True
        self._desk_closed(delivery)
        if replies is None or isinstance(replies[-1], ReplyError):
            self._doubt()
        else:
            self._disbelieve(id_, NotOurs("it was taken once before"))
        return False

    # ---- ReplySink

    def send(self, report: Report) -> None:
        """What the loop says of its request. Blocks for as long as the broker takes to read."""
        job = self._job
        if job is None:
            return  # of a request that this loop has no more
        if isinstance(report, Begun):
            self._begun(job, report)
        elif isinstance(report, Chunk | Progressed):
            self._say(self._tell(job.inbox, report))
        elif isinstance(report, Outcome):
            if job.envelope.stream and not self._whole():
                log.warning("stream messages of %s were lost on their way to the broker", job.envelope.endpoint)
                report = Outcome(
                    report.rid, "worker-lost", attempt=report.attempt, begun_at=report.begun_at,
                    ended_at=report.ended_at, worker=report.worker, last=report.last,
                )  # fmt: skip
            if report.begun_at and report.last:
                took = report.ended_at - report.begun_at
                self._durations.took(job.envelope.endpoint, took)
                self._durations.took(ANY, took)
            begun, ended = self._at_the_broker(report.begun_at), self._at_the_broker(report.ended_at)
            outcome = msgspec.structs.replace(report, begun_at=begun, ended_at=ended)
            told = written(outcome, lambda said: self._tell(job.inbox, said), self.desk.max_reply)
            if report.last:
                self._close(job, told)
            else:
                self._answer(job, told)
        elif isinstance(report, Freed):
            self._close(job, self._tell(job.inbox, report))

    def _at_the_broker(self, at: float) -> float:
        """An instant in the broker's time; 0.0, which is none, stays so."""
        return at + self._offset if at else 0.0

    def _begun(self, job: RedisDelivery, report: Begun) -> None:
        """The beginning is told where it is long before the end."""
        envelope = job.envelope
        self.desk.holds(self._number, envelope.deadline)
        job.began_at = report.at
        if envelope.stream or self._durations.expected(envelope.endpoint) > QUICK:
            self._say(self._tell(job.inbox, msgspec.structs.replace(report, at=self._at_the_broker(report.at))))
        if (self._ahead or self._ended or self._seat.taken) and not self.desk.busy.is_set():
            self.desk.busy.set()

    def _say(self, command: Command) -> None:
        """At once, and unheard: what is lost with the connection is lost."""
        with self._writing:
            if self._line is not None:
                try:
                    self._line.send([command])
                except BrokerError:
                    self._drop()

    def _whole(self) -> bool:
        """Whether the broker has taken all stream messages of this request, so that no caller gets what has a hole."""
        with self._writing:
            if self._line is not None:
                try:
                    self._line.settle()
                except BrokerError:
                    self._drop()
            return self._line is not None and not self._line.refused and not self._torn

    def _answer(self, job: RedisDelivery, told: Command) -> None:
        """Its caller has its reply before the loop goes on; should the broker not take it now, as soon as it does."""
        self._ended.append(Ended(None, told, job.envelope.deadline + LEASE))
        if not self._tell_ended():
            self.desk.busy.set()
        self._waits.passes_over()

    def _close(self, job: RedisDelivery, told: Command | None = None) -> None:
        """It has ended: said with the next question for work, which comes at once unless more is at hand."""
        self._end(job.id, told, job.envelope.deadline)
        self._let_go(job)

    def _end(self, id_: bytes, told: Command | None = None, deadline: float = -math.inf) -> None:
        self._ended.append(Ended(id_, told, deadline + LEASE))

    def _let_go(self, job: RedisDelivery) -> None:
        self._job = None
        self._handled += 1
        self._desk_closed(job)
        self.desk.holds(self._number, 0.0)
        self.desk.counted()

    def _desk_closed(self, delivery: RedisDelivery) -> None:
        self.desk.closed(delivery.envelope.rid, delivery)

    def _finish(self) -> None:
        """What was given and has neither ended nor begun will not: nobody waits for it, or it is another's by now."""
        job = self._job
        if job is None:
            return
        if job.cancelled or self._clock() >= job.envelope.deadline:
            self._too_late(job)
        self._let_go(job)

    # ---- for others

    def relieve(self, now: float) -> bool:
        """What runs for longer than was expected is not to hold up anything else. For any thread, at any time.

        Says whether that is to be looked at again, `BEHIND` later.
        """
        job = self._job
        if job is None or not job.began_at:
            return False  # this loop talks to the broker itself
        if now < max(job.began_at + BEHIND, self._told_again_at) or not self._writing.acquire(blocking=False):
            return True
        try:
            if self._job is job:
                told = self._let_others()
                if self._seat.taken:
                    self._seat.crowded(now)  # the next surprise is not to find nobody who waits
                self._seat.leave()
                if not told:  # not taken, and the broker is not to be asked a hundred times a second
                    self._told_again_at = self._clock() + self._backoff.delay()
        finally:
            self._writing.release()
        return bool(self._ended)

    def _tell_ended(self) -> bool:
        """Now, and not with the next question. Whether the broker has taken it."""
        with self._writing:
            count, told = len(self._ended), self._tells(self._ended)
            replies = self._exchange(told) if told else []
            if replies is not None:
                return self._heard(count, replies)
            self._outlive(count)
            return False

    def _let_others(self) -> bool:
        """Tell what has ended, and give back what was read ahead, for whoever is free. Whether the former was taken."""
        with self._writing:
            back: list[Command] = []
            while self._ahead:
                try:
                    delivery = self._ahead.pop()
                except IndexError:  # the loop was quicker
                    break
                self._desk_closed(delivery)
                back.insert(0, self._again(delivery))
            count, told = len(self._ended), self._tells(self._ended)
            replies = self._exchange([*told, *back]) if told or back else []
            if replies is None:
                self._outlive(count)
                return False
            self._given_back(replies[len(told) :])
            return self._heard(count, replies[: len(told)])

    def _given_back(self, replies: Sequence[Reply]) -> None:
        refused = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        if refused is not None:
            log.warning("the broker does not take a request back: %s", refused)
            self._doubt()

    # ---- commands

    def _tells(self, ended: Sequence[Ended]) -> list[Command]:
        """All or nothing: what is told, first, and that they are done."""
        if not ended:
            return []
        told = [one.told for one in ended if one.told is not None]
        if ids := [one.id for one in ended if one.id is not None]:
            told += (("XACK", self._stream, GROUP, *ids), ("XDEL", self._stream, *ids))
        return [("MULTI",), *told, ("EXEC",)]

    def _tell(self, inbox: str, report: Returned) -> Command:
        return ("XADD", inbox, "NOMKSTREAM", "*", *self._returns.write(inbox, report))

    def _again(self, delivery: RedisDelivery) -> Command:
        """Another is to have it, unbegun."""
        envelope, inbox = delivery.envelope, delivery.inbox
        told = self._returns.write(inbox, Requeued(envelope.rid, envelope.attempt))
        return scripts.again(self._stream, inbox, delivery.id, tuple(delivery.fields), told)

    # ---- the connection

    def _heard(self, count: int, replies: Sequence[Reply]) -> bool:
        """Whether the broker has taken how the first so many ended; if not, it is said again while somebody waits."""
        refused = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        if refused is None:
            del self._ended[:count]
            return True
        log.warning("the broker does not take a reply: %s", refused)
        self._outlive(count)
        return False

    def _outlive(self, count: int) -> None:
        """What nobody waits for any more is not said again, however long it takes until something can be said."""
        now = self._clock()
        with self._writing:
            for at, one in enumerate(self._ended[:count]):
                if now > one.until:
                    self._ended[at] = one._replace(told=None)

    def _exchange(self, commands: Sequence[Command], waits: float = 0.0) -> list[Reply] | None:
        """None where the broker cannot be reached: what was sent may have been done."""
        with self._writing:
            try:
                if self._line is None:
                    self._line = Line(self.desk.address, scripts=scripts.SCRIPTS)
                self._asked = self._clock()
                return self._line.exchange(commands, waits)
            except BrokerError as fault:
                log.debug("no work from the broker: %s", fault)
                self._drop()
                self._doubt()
        return None

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
            self._torn = True

    def close(self) -> None:
        """The loop has ended: what it has not said yet is said."""
        self._finish()
        self._let_others()
        self._seat.leave()
        self._drop()


def _lain(delivery: RedisDelivery, now: Reply) -> float:
    """Seconds for which an entry had lain at the broker by then; less than nothing: it came later."""
    since, _ = mark_of(delivery.id)
    return int(now[0]) + int(now[1]) / 1e6 - since / 1000


def relieve(sources: Sequence[RedisSource]) -> None:
    """For a thread of its own beside the loops of one desk, while they live: look after those that others wait for.

    It sleeps while nobody does. While native code holds the GIL it cannot look, nor can anybody else here.
    """
    desk = sources[0].desk
    while True:
        desk.busy.wait()
        desk.busy.clear()
        time.sleep(BEHIND)  # noqa: TID251  (a pace: what is looked at goes on meanwhile, and tells nobody)
        now = desk.clock()
        again = [source.relieve(now) for source in sources]
        if any(again):
            desk.busy.set()

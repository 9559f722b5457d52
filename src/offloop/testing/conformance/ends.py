"""What a transport gives to its conformance suite: its ends, and what it does in its own way. Plain data."""

from collections.abc import Callable
from dataclasses import dataclass

from offloop.ports.replies import ReplySink, ReplySource
from offloop.ports.work import WorkSink, WorkSource


@dataclass(frozen=True, kw_only=True)
class Ends:
    """One open transport.

    Attributes:
        sink, reply_source: the web side's ends; the suite uses them on the event loop on which they were opened.
        source, reply_sink: the worker side's ends; the suite uses them in plain threads.
        close: closes the web side's ends; called on the event loop, and more than once.
        nudge: lets so many waiting `get` calls return None; called on the event loop. None where the transport has
            nothing like it.
        worker: whom work is put for, and whose name reports carry; None: whoever takes it first, under any name.
        second: another worker's source and reply sink, beside the same web side; None where there is no more than one.
        lose: ends the worker's side as its death would, and lets the web side learn of it. Called in a plain thread,
            once; does not wait for the event loop. None where no worker dies alone.
    """

    sink: WorkSink
    source: WorkSource
    reply_sink: ReplySink
    reply_source: ReplySource
    close: Callable[[], object]
    nudge: Callable[[int], object] | None = None
    worker: str | None = None
    second: "Ends | None" = None
    lose: Callable[[], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """In what a transport may differ. The defaults are the strictest.

    Attributes:
        late_withdrawal: `withdraw` may answer None, and a `Withdrawn` report tells later.
        begun_at_once: `settle` reports a `Begun` as soon as its `send` has returned; otherwise it comes by itself.
        ordered: work is handed out first in, first out.
        deadline_tolerance: seconds by which a deadline, or any other instant, may have moved when it arrives (clocks of
            two hosts); less than an eighth of a second.
        wake_ups: calls of the receiver that all reports may take which came while the event loop was busy.
        volume: envelopes sent to and fro where the suite looks for losses.
        burst: reports that can be sent while the event loop is busy; with more than that `send` blocks.
        late_work: what was put before `close` may still be taken after it.
        taken_is_begun: what a loop has been handed counts as begun, and is not taken back any more; a loop is handed
            what it can begin at once, and no more.
        put_again: what was taken back may be put again as the same attempt, by whoever then has another worker for it.
        early_withdrawal: one request can be taken back before its deadline, and the others still begin. Otherwise it
            can be when its deadline has come, or after `cut`, which ends all: nothing begins any more.
    """

    late_withdrawal: bool = False
    begun_at_once: bool = True
    ordered: bool = True
    deadline_tolerance: float = 0.0
    wake_ups: int = 10
    volume: int = 4000
    burst: int = 1000
    late_work: bool = False
    taken_is_begun: bool = False
    put_again: bool = True
    early_withdrawal: bool = True

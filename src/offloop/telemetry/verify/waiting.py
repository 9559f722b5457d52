"""Promises 3 and 4: how long waiters live, and how many there are.

Each function checks one promise. Why a request waited is not judged.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from offloop.telemetry.verify.history import History, Request, Run
from offloop.telemetry.verify.lines import Line
from offloop.telemetry.verify.report import Findings

PAST_DEADLINE = 0.050
"""Seconds that a waiter may outlive its deadline."""
PAST_OUTCOME = 0.100
"""Seconds that a waiter may outlive its outcome."""
HANDED = 0.100
"""Seconds before its beginning, or its end, in which a request may have left a broker's queue already."""
UNHEARD = "not all beginnings are in the logs, or not with times of this host"


# ---- promise 3


def short_lived(history: History, found: Findings) -> None:
    """Promise 3: no waiter outlives its deadline by 50 ms, nor its outcome by 100 ms; at rest there are none."""
    for request, admit, run in history.admitted():
        added = request.first("waiter_add")
        if added is None:
            found.missing("an admitted request has no `waiter_add` in the log")
            continue
        deadline = added.deadline or admit.deadline
        if not deadline:
            found.missing("a waiter's deadline is not in the log")
            continue
        found.judge()
        gone = request.first("waiter_del")
        closing = run.closing
        if closing and run.whole and (gone is None or gone.t > closing.t):
            found.violated(f"{request.rid} still had its waiter at the end", added, closing)
        elif gone is None:
            _still_there(request, added, deadline, run, found)
        else:
            _gone(request, gone, deadline, run, found)


def _still_there(request: Request, added: Line, deadline: float, run: Run, found: Findings) -> None:
    if run.over(run.until(deadline, PAST_DEADLINE)):
        found.violated(f"{request.rid} still had its waiter when the log ended, long past its deadline", added)
    elif run.whole:
        found.missing("the log ends without `close` while a waiter was there")


def _gone(request: Request, gone: Line, deadline: float, run: Run, found: Findings) -> None:
    waiter = f"the waiter of {request.rid}"
    found.within(gone.t, deadline, PAST_DEADLINE, run, f"{waiter} outlived its deadline", gone)
    outcome = _outcome_at(request, gone)
    if outcome is not None:
        found.within(gone.t, outcome.t, PAST_OUTCOME, run, f"{waiter} outlived its outcome", outcome, gone)


def _outcome_at(request: Request, gone: Line) -> Line | None:
    """When its outcome was there: as the loop made it, where the log has that, else as it was settled."""
    end = request.ended
    if end is None:
        return None
    made = [finish for finish in request.served_by(end) if finish.boot == gone.boot]
    return min([end, *made], key=lambda line: line.t)


# ---- promise 4


def bounded(history: History, found: Findings) -> None:
    """Promise 4: waiters per endpoint within `max_in_flight`; admitted and not begun within the queue's limit."""
    for run in history.web:
        _waiters(run, found)
        if run.whole and not run.bounded_together:
            _queue(run, history, found)
    for runs in _clusters(history):
        _shared_queue(runs, history, found)


def _clusters(history: History) -> list[list[Run]]:
    """Web processes that share a broker's queues, and a clock."""
    together: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in history.web:
        if run.bounded_together and run.whole:
            together[run.boot, run.namespace].append(run)
    return list(together.values())


def _waiters(run: Run, found: Findings) -> None:
    """One event loop adds and removes them, so the order of its lines is the order in which it did so."""
    limits = {admit.endpoint: admit.limit for admit in run.of("admit")}
    live: dict[str, str] = {}
    count: Counter[str] = Counter()
    for line in run.lines:
        if line.kind == "waiter_del" and line.rid in live:
            count[live.pop(line.rid)] -= 1
        elif line.kind == "waiter_add":
            limit = limits.get(line.endpoint, 0)
            if not limit:
                if not run.shared:  # else a broker may have refused all that came
                    found.missing("an endpoint's `max_in_flight` is not in the log")
                continue
            found.judge()
            live[line.rid] = line.endpoint
            count[line.endpoint] += 1
            if count[line.endpoint] > limit and run.whole:
                found.violated(f"{line.endpoint} has {count[line.endpoint]} waiters, its limit is {limit}", line)


def _queue(run: Run, history: History, found: Findings) -> None:
    """A request leaves the queue when it begins, as soon as time or the order of the lines says so, or when it ends.

    Beginnings are told by other threads: their lines may stand a little after what they made room for.
    """
    if not run.queue_limit:
        found.missing("the queue's limit is not in the log")
        return
    first = [request.all("start")[0] for request in history.of(run) if request.all("start")]
    if not history.hears(run) or any(start.boot != run.boot for start in first):
        found.missing(UNHEARD)
        return
    starts = sorted(first, key=lambda start: start.t, reverse=True)
    queued: set[str] = set()
    out: set[str] = set()

    def leave(rid: str) -> None:
        queued.discard(rid)
        out.add(rid)

    for line in run.lines:
        if line.kind in {"terminal", "start"}:
            leave(line.rid)
        elif line.kind == "admit":
            found.judge()
            while starts and starts[-1].t <= line.t:
                leave(starts.pop().rid)
            if line.rid not in out:
                queued.add(line.rid)
            if len(queued) > run.queue_limit:
                text = f"{len(queued)} requests are admitted and have not begun, the limit is {run.queue_limit}"
                found.violated(text, line)


def _shared_queue(runs: list[Run], history: History, found: Findings) -> None:
    """A broker has judged, and writes no log: what is counted has certainly waited there at the same time."""
    limit = max(run.queue_limit * (run.opening.queues if run.opening else 1) for run in runs)
    if not limit:
        found.missing("the queue's limit is not in the log")
        return
    starts = (start for run in runs for request in history.of(run) for start in request.all("start"))
    if not all(history.hears(run) for run in runs) or any(start.boot != runs[0].boot for start in starts):
        found.missing(UNHEARD)
        return
    changes = sorted(change for run in runs for change in _waits(run, history, found))
    waiting: dict[str, Line] = {}
    for _, comes, rid in changes:
        if comes:
            waiting[rid] = history.requests[rid].all("admit")[0]
        else:
            waiting.pop(rid, None)
        if len(waiting) > limit:
            text = f"{len(waiting)} requests were admitted and had not begun, the limit of the cluster is {limit}"
            found.violated(text, *waiting.values())
            return


def _waits(run: Run, history: History, found: Findings) -> Iterator[tuple[float, bool, str]]:
    """When each request of a run had certainly come into the queue, and when it may have left it."""
    told = 0.0  # an admission is told with the time of its arrival: what is told next says when that was
    for line in reversed(run.lines):
        if line.kind != "admit":
            told = line.t
            continue
        found.judge()
        request = history.requests[line.rid]
        began = next((start.t for start in request.all("start")[:1] if start.boot == run.boot), None)
        left = min((t for t in (began, request.ended and request.ended.t) if t), default=0.0) - HANDED
        if told and left > told:
            yield told, True, line.rid
            yield left, False, line.rid

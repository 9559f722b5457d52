"""Promises 7, 8 and 9: what a worker's death, a drain and a late reply do.

Each function checks one promise. Where nothing died, drained or came late, there is nothing to judge.
"""

from collections import defaultdict

from offloop.events import STOPPED
from offloop.telemetry.verify.history import LAG, History, Request, Run, after
from offloop.telemetry.verify.lines import Line
from offloop.telemetry.verify.report import Findings

AFTER_DEATH = 0.100
"""Seconds within which a worker's death ends what it was running."""
AFTER_BUDGET = 0.250
"""Seconds after the drain's budget by which every waiter is settled."""
ARRIVES_WITHIN = 0.100
"""Seconds after which a reply that was sent has been served or dropped."""
MISSED_WITHIN = 2.0
"""Seconds within which a web process of a cluster has noticed that a worker is not there any more."""


# ---- promise 7


def death_is_contained(history: History, found: Findings) -> None:
    """Promise 7: a worker's death ends what it was running within 100 ms, and loses nothing that had not begun."""
    for run in history.web:
        deaths = [lost for lost in run.of("worker_lost") if lost.outcome != STOPPED]
        if deaths and run.shared:
            found.missing("in cluster mode a worker's death is seen by the broker, not here")
            continue
        if deaths and not history.hears(run):
            found.missing("not all beginnings are in the logs")
            continue
        requests = history.of(run)
        for lost in deaths:
            overtakers = _overtakers(lost, requests)
            for request in requests:
                _struck(request, lost, run, found)
                _forgotten(request, lost, overtakers, run, found)
        for request in requests if deaths else ():
            end = request.ended
            if end and end.outcome == "worker-lost" and not request.all("start"):
                found.judge()
                found.violated(f"{request.rid} had not begun, and was lost with a worker", end)


def _struck(request: Request, lost: Line, run: Run, found: Findings) -> None:
    """One request that the lost worker was running."""
    end = request.ended
    begun = [start for start in request.all("start") if not after(start, lost)]
    if not begun or begun[-1].worker != lost.worker or (end and after(lost, end)):
        return
    start = begun[-1]
    if any(finish.attempt == start.attempt and not after(finish, lost) for finish in request.all("finish")):
        return  # it had finished; its outcome was on its way
    admit = request.first("admit")
    if admit and admit.idempotent and len(begun) < run.max_deliveries:
        found.judge()  # it may begin again, within its deadline, which promise 3 keeps
        return
    if end is None:
        if run.over(run.until(lost.t, AFTER_DEATH)):
            found.judge()
            found.violated(f"{request.rid} has no outcome, and its worker is gone", start, lost)
        else:
            found.missing("the log ends before a worker's death could have ended its request")
        return
    found.judge()
    found.within(end.t, lost.t, AFTER_DEATH, run, f"{request.rid} outlived its worker's death", lost, end)


def _overtakers(lost: Line, requests: list[Request]) -> dict[str, dict[str, Line]]:
    """By endpoint and worker, the earliest beginning of what was queued only after the death, behind all else."""
    earliest: defaultdict[str, dict[str, Line]] = defaultdict(dict)
    for request in requests:
        queued, start = request.first("enqueue"), request.first("start")
        if queued and start and queued.t > lost.t + AFTER_DEATH:
            workers = earliest[queued.endpoint]
            known = workers.get(start.worker)
            if known is None or after(known, start):
                workers[start.worker] = start
    return earliest


def _forgotten(request: Request, lost: Line, overtakers: dict[str, dict[str, Line]], run: Run, found: Findings) -> None:
    """It was queued when a worker died, and never began: lost, if what came later began before its end.

    Loops that share a buffer take what comes first. Otherwise it may wait in the buffer of a worker that hangs, and is
    overtaken rightfully: it is lost only if every worker has begun what came later.
    """
    queued, began, end = request.first("enqueue"), request.first("start"), request.ended
    if queued is None or after(queued, lost) or (end and after(lost, end)) or (began and not after(began, lost)):
        return
    found.judge()
    if began is not None or end is None:
        return
    passed = {
        worker: start
        for worker, start in overtakers.get(queued.endpoint, {}).items()
        if after(end, start) and start.t < queued.deadline  # later it might not have begun itself
    }
    where = set(passed) if run.mode == "thread" else _there(run, lost.t, end.t)
    if passed and where <= passed.keys():
        found.violated(f"{request.rid} waited when a worker died, and was passed over", queued, lost, *passed.values())


def _there(run: Run, since: float, until: float) -> set[str]:
    """The workers that were there at some time in between."""
    up = {line.worker for line in run.of("worker_up") if line.t <= until}
    return up - {line.worker for line in run.of("worker_lost") if line.t <= since}


# ---- promise 8


def drain_ends(history: History, found: Findings) -> None:
    """Promise 8: after a drain begins nothing is admitted, and every waiter is settled by the budget + 250 ms."""
    for run in history.web:
        for drain in run.of("drain_begin"):
            found.judge()
            _nothing_admitted(drain, run, found)
            for request in history.of(run):
                _settled(request, drain, run, found)


def _nothing_admitted(drain: Line, run: Run, found: Findings) -> None:
    for admit in run.of("admit"):
        if drain.ended_at > drain.t:
            # Admission ends by a timer then, which may be as late as the event loop may lag.
            text = f"{admit.rid} was admitted when the drain's delay was over"
            found.within(admit.t, drain.ended_at, LAG, run, text, drain, admit)
        elif after(admit, drain):
            found.violated(f"{admit.rid} was admitted {admit.t - drain.t:.3f} s after the drain began", drain, admit)


def _settled(request: Request, drain: Line, run: Run, found: Findings) -> None:
    added, settled = request.first("waiter_add"), request.ended or request.first("waiter_del")
    if added is None or (settled and settled.t <= drain.t):
        return
    found.judge()
    budget = drain.t + drain.value
    if settled is None:
        if run.over(run.until(budget, AFTER_BUDGET)):
            found.violated(f"{request.rid} was not settled when the drain's budget had ended", added, drain)
        elif run.whole:
            found.missing("the log ends before the drain's budget had")
    else:
        text = f"{request.rid} outlived the drain's budget"
        found.within(settled.t, budget, AFTER_BUDGET, run, text, drain, settled)


# ---- promise 9


def late_is_dropped(history: History, found: Findings) -> None:
    """Promise 9: a late or duplicate reply is counted and dropped."""
    for request, _, run in history.admitted():
        drops, end = request.all("late_drop"), request.ended
        for drop in drops:
            found.judge()
            _was_late(request, drop, found)
        if end and run.whole:
            served = request.served_by(end)[:1]
            replies = [finish for finish in request.all("finish") if finish.outcome == "ok" and finish not in served]
            # Where the outcome is a reply that no loop made, it is promise 2 that is broken.
            if (served or end.outcome != "ok") and len(replies) > len(drops):
                _uncounted(request, end, replies, run, found)
    for request in history.requests.values():
        if request.all("late_drop") and not request.all("admit"):
            found.judge()  # nobody's: of an earlier life of the process, or of another


def _was_late(request: Request, drop: Line, found: Findings) -> None:
    """What was dropped while its request waited was not late, unless a later attempt had taken its place."""
    end, gone = request.ended, request.first("waiter_del")
    waited = not (end and not after(end, drop)) and not (gone and not after(gone, drop))
    attempts = [line.attempt for kind in ("start", "enqueue", "terminal") for line in request.all(kind)]
    if waited and drop.attempt >= max(attempts, default=1):
        found.violated(f"a reply to {request.rid} was dropped while it was waited for", drop, *([end] if end else []))


def _uncounted(request: Request, end: Line, replies: list[Line], run: Run, found: Findings) -> None:
    for finish in replies:
        deaths = (lost for lost in run.of("worker_lost") if lost.worker == finish.worker)
        within = MISSED_WITHIN if run.shared else ARRIVES_WITHIN
        if any(abs(lost.t - finish.t) < within for lost in deaths):
            continue  # it may have died with its worker
        if run.shared and end.outcome == "worker-lost" and abs(end.t - finish.t) < within:
            continue  # the same, of a worker that came and went between two looks at who is there
        if run.horizon > run.until(finish.t, ARRIVES_WITHIN):
            found.judge()
            found.violated(f"a reply to {request.rid} came late, and was neither served nor counted", end, finish)
            return

"""Any honest history is held; any fault put into one is caught under its promise's number."""

import math
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from offloop.telemetry.verify import check
from tests.support.histories import Lines, Story, changed, number

STORIES: tuple[Callable[[Story, str, float, float, float], None], ...] = (
    lambda story, rid, t, wait, run: story.ok(rid, t, wait, run),
    lambda story, rid, t, wait, run: story.ok(rid, t, wait, run, outcome="encrypted-pdf"),
    lambda story, rid, t, wait, run: story.ok(rid, t, wait, run, outcome="node-failed"),
    lambda story, rid, t, wait, run: story.rejected(rid, t),
    lambda story, rid, t, wait, run: story.expired(rid, t),
    lambda story, rid, t, wait, run: story.left(rid, t, wait),
    lambda story, rid, t, wait, run: story.finishes(rid, t, wait, run),
    lambda story, rid, t, wait, run: story.late(rid, t, wait, run),
    lambda story, rid, t, wait, run: story.lost(rid, t, wait, run),
    lambda story, rid, t, wait, run: story.retried(rid, t, min(wait, 1.0), min(run, 1.0)),  # twice, and in time
)

times = st.integers(0, 4000).map(lambda milliseconds: milliseconds / 1000)
spans = st.integers(2, 3000).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def histories(draw: st.DrawFn) -> Lines:
    """One of each kind of request and some more, over one another as it comes, with limits just as wide as needed."""
    story = Story()
    story.ok("first", 1.0)
    story.ok("second", 1.0)
    told = [*STORIES, *draw(st.lists(st.sampled_from(STORIES), max_size=8))]
    for place, tell in enumerate(told):
        tell(story, f"r{place}", 1.0 + draw(times), draw(spans), draw(spans))
    story.drain(5.5, end=30.0)
    began = {line["rid"] for line in story.told if line["kind"] == "start"}
    for line in story.told:
        if line["rid"] not in began and line["kind"] == "enqueue":
            line["endpoint"] = "another"  # loops of its own: those of `read` take what comes first
    lines = story.lines()
    return limited(lines, queue=deepest(lines, "admit", ("start", "terminal")),
                   waiters=deepest(lines, "waiter_add", ("waiter_del",)))  # fmt: skip


def deepest(lines: Lines, into: str, out: tuple[str, ...]) -> int:
    """How many were inside at once, at most. What begins at the instant at which another comes makes room for it."""
    starts = {line["rid"]: line["t"] for line in reversed(lines) if line["kind"] == "start" and "start" in out}
    inside: set[str] = set()
    most = 1
    for line in lines:
        if line["kind"] == into:
            inside.add(line["rid"])
        elif line["kind"] in out:
            inside.discard(line["rid"])
        most = max(most, sum(starts.get(rid, math.inf) > line["t"] for rid in inside))
    return most


def limited(lines: Lines, queue: int, waiters: int) -> Lines:
    limits = {"open": queue, "admit": waiters}
    return changed(lines, lambda line: line | ({"limit": limits[line["kind"]]} if line["kind"] in limits else {}))


def one(draw: st.DataObject, lines: Lines, kind: str, **fields: Any) -> dict[str, Any]:
    fit = [line for line in lines if line["kind"] == kind and fields.items() <= line.items()]
    return draw.draw(st.sampled_from(fit))


def drop(lines: Lines, *gone: dict[str, Any]) -> Lines:
    return number(line for line in lines if line not in gone)


def put(lines: Lines, *more: dict[str, Any]) -> Lines:
    return number(sorted([*lines, *more], key=lambda line: line["t"]))


def move(lines: Lines, line: dict[str, Any], t: float) -> Lines:
    return put(drop(lines, line), line | {"t": t})


def twice(kind: str) -> Callable[[st.DataObject, Lines], Lines]:
    def mutate(draw: st.DataObject, lines: Lines) -> Lines:
        line = one(draw, lines, kind)
        return put(lines, line | {"t": line["t"] + 0.5})

    return mutate


def undecided(draw: st.DataObject, lines: Lines) -> Lines:
    return drop(lines, one(draw, lines, draw.draw(st.sampled_from(["admit", "reject"]))))


def unended(draw: st.DataObject, lines: Lines) -> Lines:
    return drop(lines, one(draw, lines, "terminal"))


def unmade(draw: st.DataObject, lines: Lines) -> Lines:
    end = one(draw, lines, "terminal", outcome="ok")
    return drop(lines, *(line for line in lines if line["kind"] == "finish" and line["rid"] == end["rid"]))


def lingering(draw: st.DataObject, lines: Lines) -> Lines:
    gone = one(draw, lines, "waiter_del")
    return move(lines, gone, gone["t"] + draw.draw(st.sampled_from([0.11, 0.5, 12.0])))


def staying(draw: st.DataObject, lines: Lines) -> Lines:
    return drop(lines, one(draw, lines, "waiter_del"))


def short_queue(draw: st.DataObject, lines: Lines) -> Lines:
    return changed(lines, lambda line: line | {"limit": line["limit"] - 1} if line["kind"] == "open" else line)


def narrow_endpoint(draw: st.DataObject, lines: Lines) -> Lines:
    return changed(lines, lambda line: line | {"limit": line["limit"] - 1} if line["kind"] == "admit" else line)


def too_late(draw: st.DataObject, lines: Lines) -> Lines:
    start = one(draw, lines, "start")
    return move(lines, start, start["deadline"] + 0.001)


def after_leaving(draw: st.DataObject, lines: Lines) -> Lines:
    start = one(draw, lines, "start")
    # Longer before than two clock readings may cross: what is closer is excused where its end is close, too.
    return put(lines, start | {"kind": "disconnect", "outcome": "cancelled", "t": start["t"] - 0.011})


def of_the_rejected(draw: st.DataObject, lines: Lines) -> Lines:
    reject = one(draw, lines, "reject")
    return put(lines, reject | {"kind": "start", "deadline": reject["t"] + 1.0})


def again(draw: st.DataObject, lines: Lines) -> Lines:
    policies = [line["rid"] for line in lines if line["kind"] == "admit" and not line.get("idempotent")]
    start = one(draw, lines, "start", rid=draw.draw(st.sampled_from([r for r in policies if begun(lines, r)])))
    return put(lines, start | {"t": start["t"] + 0.001})


def begun(lines: Lines, rid: str) -> bool:
    return any(line["kind"] == "start" and line["rid"] == rid for line in lines)


def buried(draw: st.DataObject, lines: Lines) -> Lines:
    end = one(draw, lines, "terminal", outcome="worker-lost")
    return move(lines, end, end["t"] + 0.2)


def admitted_while_draining(draw: st.DataObject, lines: Lines) -> Lines:
    admit = one(draw, lines, "admit")
    drain = one(draw, lines, "drain_begin")
    return move(lines, admit, drain["t"] + 0.001)


def outliving_the_drain(draw: st.DataObject, lines: Lines) -> Lines:
    end = one(draw, lines, "terminal")
    drain = one(draw, lines, "drain_begin")
    return move(lines, end, drain["t"] + drain["value"] + 0.251)


def uncounted(draw: st.DataObject, lines: Lines) -> Lines:
    return drop(lines, one(draw, lines, "late_drop"))


def thrown_away(draw: st.DataObject, lines: Lines) -> Lines:
    finish = one(draw, lines, "finish", outcome="ok", attempt=1)
    return put(lines, finish | {"kind": "late_drop", "t": one(draw, lines, "admit", rid=finish["rid"])["t"] + 0.001})


FAULTS: tuple[tuple[int, Callable[[st.DataObject, Lines], Lines]], ...] = (
    (1, twice("arrive")),
    (1, twice("admit")),
    (1, twice("reject")),
    (1, undecided),
    (2, twice("terminal")),
    (2, unended),
    (2, unmade),
    (3, lingering),
    (3, staying),
    (4, short_queue),
    (4, narrow_endpoint),
    (5, too_late),
    (5, after_leaving),
    (5, of_the_rejected),
    (6, again),
    (7, buried),
    (8, admitted_while_draining),
    (8, outliving_the_drain),
    (9, uncounted),
    (9, thrown_away),
)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_an_honest_history_breaks_no_promise(lines: Lines) -> None:
    report = check(lines)
    assert [verdict.state for verdict in report.verdicts] == ["held"] * 9, report.lines()


@settings(max_examples=200, deadline=None)
@given(histories(), st.sampled_from(FAULTS), st.data())
def test_a_fault_in_an_honest_history_is_caught(
    lines: Lines, fault: tuple[int, Callable[[st.DataObject, Lines], Lines]], data: st.DataObject
) -> None:
    promise, mutate = fault
    report = check(mutate(data, lines))
    assert promise in report.violated, report.lines()


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_a_log_that_breaks_off_anywhere_breaks_no_promise(lines: Lines, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(lines) - 1))
    report = check(lines[:cut])
    assert report.violated == (), report.lines()

"""Each promise: forged logs that break it and are caught under its number alone, and logs that cannot tell."""

import pytest

from offloop.events import Event
from offloop.telemetry.verify import PROMISES, Report, check
from tests.support.histories import Lines, Story, changed, number, without


def day() -> Story:
    """A bit of everything, all promises kept."""
    story = Story()
    story.ok("a", 1.0)
    story.ok("b", 1.05, outcome="encrypted-pdf")
    story.rejected("c", 1.1)
    story.expired("d", 1.2)
    story.left("e", 1.3)
    story.finishes("f", 1.4)
    story.late("g", 1.5)
    story.lost("h", 1.6)
    story.retried("i", 1.7)
    story.ok("j", 1.8, outcome="node-failed")
    story.drain(20.0, end=20.0)
    return story


def only(report: Report, promise: int, text: str) -> None:
    """This promise is violated, with this text, and no other is."""
    assert report.violated == (promise,), report.lines()
    assert report.exit_code == 1
    assert any(text in violation.text for violation in report[promise].violations), report.lines()
    assert all(violation.lines for violation in report[promise].violations)


def cannot(report: Report, promise: int, why: str) -> None:
    """This promise is not checkable, for this reason."""
    assert report[promise].state == "not checkable", report.lines()
    assert any(why in reason for reason in report[promise].why), report.lines()


def edit(lines: Lines, rid: str, kind: str, **fields: object) -> Lines:
    """The same history with one line's fields changed."""
    return changed(lines, lambda line: line | fields if (line["rid"], line["kind"]) == (rid, kind) else line)


def test_an_honest_history_holds_all_nine() -> None:
    report = check(day().lines())
    assert [verdict.state for verdict in report.verdicts] == ["held"] * 9, report.lines()
    assert report.exit_code == 0
    assert len(report.lines()) == 9


def test_an_empty_log_holds_nothing() -> None:
    report = check([])
    for promise in PROMISES:
        cannot(report, promise, "the log is empty")
    assert report.exit_code == 0


def test_a_log_of_nothing_but_a_start_and_an_end_holds_nothing() -> None:
    report = check(Story().lines())
    reasons = {promise: report[promise].why[0] for promise in PROMISES}
    assert {verdict.state for verdict in report.verdicts} == {"not checkable"}
    assert reasons[1] == "no request arrived"
    assert reasons[6] == "no request began"
    assert reasons[8] == "there was no drain"


def test_a_log_that_does_not_begin_with_open_holds_nothing() -> None:
    report = check(number(day().lines()[1:]))
    for promise in PROMISES:
        cannot(report, promise, "does not begin with `open`")


def test_a_gap_line_means_not_checkable() -> None:
    lines = day().lines()
    report = check([*lines, lines[-1] | {"kind": "gap", "lost": 3}])
    for promise in PROMISES:
        cannot(report, promise, "lines of process 7 on web-1 are missing")


def test_a_hole_in_the_numbers_means_not_checkable() -> None:
    lines = day().lines()
    report = check(lines[:9] + lines[10:])
    for promise in PROMISES:
        cannot(report, promise, "are missing")


def test_a_violation_that_rests_on_what_is_there_is_seen_despite_a_gap() -> None:
    lines = day().lines()
    twice = [*lines, lines[-1] | {"kind": "gap", "lost": 1, "seq": 0}]
    twice += [next(line for line in lines if line["kind"] == "terminal") | {"seq": len(lines) + 9}]
    assert check(twice).violated == (2,)


def test_nothing_follows_from_what_is_absent_from_a_log_with_a_gap() -> None:
    story = day()
    story.admit("z", 19.0)
    lines = without(story.lines(), "finish", rid="a")
    lines = without(lines, "arrive", rid="b")
    lines = without(lines, "admit", "reject", rid="c")
    lines = without(lines, "terminal", "waiter_del", rid="h")
    lines = without(lines, "late_drop", rid="g")
    assert check(lines).violated == (1, 2, 3, 7, 8, 9)
    assert check([line for line in lines if line["seq"] != 40]).violated == ()


def test_events_are_checked_as_they_are() -> None:
    events = [
        Event(t=0.0, kind="open", limit=1, value=3.0, mode="thread"),
        Event(t=1.0, kind="arrive", rid="a", endpoint="read"),
        Event(t=1.0, kind="reject", rid="a", endpoint="read", outcome="queue-full"),
        Event(t=2.0, kind="arrive", rid="a", endpoint="read"),
        Event(t=3.0, kind="close"),
    ]
    report = check(events)
    only(report, 1, "arrived more than once")
    assert "(event 2, event 4)" in report.lines()[1]


def test_many_violations_are_counted_rather_than_printed() -> None:
    story = Story()
    for number_ in range(30):
        story.rejected(f"r{number_}", 1.0)
        story.say(2.0, "arrive", f"r{number_}")
    lines = check(story.lines()).lines()
    assert "     and 10 more" in lines


def test_a_process_that_starts_again_is_two_lives_in_one_log() -> None:
    first = day().lines()
    again = changed(
        day().lines(), lambda line: line | {"t": line["t"] + 100.0, "rid": line["rid"] and line["rid"] + "2"}
    )
    shifted = changed(again, lambda line: line | {key: line[key] + 100.0 for key in ("deadline", "ended_at", "begun_at")
                                                  if line.get(key)})  # fmt: skip
    report = check(number([*first, *shifted]))
    assert [verdict.state for verdict in report.verdicts] == ["held"] * 9, report.lines()


# ---- 1


def test_1_a_request_that_arrives_twice() -> None:
    story = day()
    story.say(1.01, "arrive", "a")
    only(check(story.lines()), 1, "a arrived more than once")


def test_1_a_request_that_is_admitted_and_rejected() -> None:
    story = Story()
    story.admit("a", 1.0)
    story.say(1.0, "reject", "a", outcome="queue-full")
    story.end("a", 1.1, "cancelled", False)
    only(check(story.lines()), 1, "a was decided more than once")


def test_1_a_request_that_is_never_decided() -> None:
    story = day()
    story.say(2.0, "arrive", "z")
    only(check(story.lines()), 1, "z was neither admitted nor rejected")
    only(check(story.lines(close=False)), 1, "z was neither admitted nor rejected")


def test_1_a_request_that_never_arrived() -> None:
    only(check(without(day().lines(), "arrive", rid="a")), 1, "a never arrived")


def test_1_cannot_tell_of_a_request_that_was_being_decided() -> None:
    story = Story()
    story.rejected("a", 1.0)
    story.say(2.0, "arrive", "z")
    cannot(check(story.lines(close=False)), 1, "was being decided")


# ---- 2


def test_2_two_outcomes() -> None:
    story = day()
    story.say(1.4, "terminal", "a", outcome="cancelled", started=True)
    only(check(story.lines()), 2, "a has 2 outcomes")


def test_2_no_outcome_and_the_waiter_is_gone() -> None:
    only(check(without(day().lines(), "terminal", rid="a")), 2, "a has no outcome, and its waiter is gone")


def test_2_no_outcome_at_the_end() -> None:
    lines = without(day().lines(), "terminal", "waiter_del", rid="a")
    report = check(lines)
    assert 2 in report.violated
    assert any("a has no outcome" in violation.text for violation in report[2].violations)


def test_2_a_reply_that_none_of_its_loops_made() -> None:
    only(check(edit(day().lines(), "a", "finish", outcome="node-failed")), 2, "a ended as `ok`, which none")


def test_2_a_reply_of_another_attempt() -> None:
    only(check(edit(day().lines(), "a", "terminal", attempt=2)), 2, "a ended as `ok`, which none")


def test_2_a_problem_that_none_of_its_loops_raised() -> None:
    only(check(edit(day().lines(), "b", "terminal", outcome="other-problem")), 2, "b ended as `other-problem`")


def test_2_a_reply_that_was_there_before_it_was_made() -> None:
    only(check(edit(day().lines(), "a", "finish", t=1.35)), 2, "before a loop had made that")


def test_2_a_reply_of_another_size() -> None:
    only(check(edit(day().lines(), "a", "terminal", size=8)), 2, "8 bytes, which are not its own")


def test_2_a_rejected_request_with_an_outcome() -> None:
    story = day()
    story.say(1.2, "terminal", "c", outcome="cancelled")
    only(check(story.lines()), 2, "c was rejected, and yet has an outcome")


def test_2_cannot_tell_without_outcomes() -> None:
    cannot(check(without(day().lines(), "terminal")), 2, "no outcome of an admitted request")


def test_2_cannot_tell_of_what_was_open_when_a_log_ended() -> None:
    story = day()
    story.admit("z", 21.0)
    cannot(check(story.lines(close=False)), 2, "the log ends without `close`")


def test_2_cannot_tell_of_replies_without_the_logs_of_the_workers() -> None:
    story = Story(mode="process")
    story.ok("a", 1.0)
    cannot(check(without(story.lines(), "dequeue", "start", "finish")), 2, "no complete log of the loops")


# ---- 3


def test_3_a_waiter_that_outlives_its_deadline() -> None:
    story = Story()
    story.ok("a", 1.0)
    story.admit("z", 2.0)
    story.end("z", 12.06, "expired-in-queue", False)
    only(check(story.lines()), 3, "z outlived its deadline by 0.060 s")


def test_3_a_waiter_that_outlives_its_outcome() -> None:
    only(check(edit(day().lines(), "a", "waiter_del", t=1.42)), 3, "a outlived its outcome by 0.120 s")


def test_3_a_waiter_whose_reply_lay_about() -> None:
    lines = edit(day().lines(), "a", "terminal", t=1.5)
    only(check(edit(lines, "a", "waiter_del", t=1.5)), 3, "a outlived its outcome by 0.200 s")


def test_3_a_waiter_that_is_left_behind() -> None:
    only(check(without(day().lines(), "waiter_del", rid="a")), 3, "a still had its waiter at the end")
    open_end = without(day().lines(close=False), "waiter_del", rid="a")
    only(check(open_end), 3, "a still had its waiter when the log ended")


def test_3_a_waiter_that_goes_after_the_end() -> None:
    story = Story()
    story.ok("a", 1.0)
    lines = [*story.lines(close=False), story.say(1.301, "close")]
    late = [line for line in lines if line["kind"] == "waiter_del"]
    for line in late:
        line["t"] = 1.35
    only(check(number(lines)), 3, "a still had its waiter at the end")


def test_3_the_bounds_themselves_are_kept() -> None:
    story = Story()
    story.admit("z", 2.0)
    story.end("z", 12.05, "expired-in-queue", False)
    report = check(edit(story.lines(), "z", "waiter_del", t=12.05))
    assert report[3].state == "held"
    assert report[3].excused == 0


def test_3_a_lag_excuses_what_it_overlaps_and_no_more() -> None:
    for begin, end, gone, state in (
        (11.95, 12.30, 12.34, "held"),  # blocked over the deadline, and quick after that
        (11.95, 12.30, 12.36, "violated"),  # quick it was not
        (11.50, 11.99, 12.06, "violated"),  # the lag was over before the deadline
        (12.04, 12.049, 12.06, "violated"),  # a lag below 10 ms is none
        (12.20, 12.50, 12.54, "violated"),  # it was too late before the lag began
    ):
        story = Story()
        story.admit("z", 2.0)
        story.end("z", gone, "expired-in-queue", False)
        story.lag(begin, end)
        report = check(story.lines())
        assert report[3].state == state, (begin, end, gone)
        assert report[3].excused == (state == "held")


def test_3_a_lag_excuses_a_waiter_after_its_outcome() -> None:
    story = day()
    story.lag(1.31, 1.6)
    report = check(edit(story.lines(), "a", "waiter_del", t=1.62))
    assert report[3].state == "held"
    assert report[3].excused == 1
    assert "1 excused" in report.lines()[2]


def test_3_cannot_tell_without_waiters_or_deadlines() -> None:
    cannot(check(without(day().lines(), "waiter_add", "waiter_del")), 3, "no `waiter_add`")
    lines = changed(day().lines(), lambda line: line | {"deadline": 0.0})
    cannot(check(lines), 3, "a waiter's deadline is not in the log")


def test_3_cannot_tell_of_a_waiter_that_was_there_when_the_log_ended() -> None:
    story = day()
    story.admit("z", 21.0)
    cannot(check(story.lines(close=False)), 3, "while a waiter was there")


def test_3_cannot_tell_of_a_waiter_without_an_outcome_how_late_it_is() -> None:
    report = check(without(day().lines(), "terminal", rid="a"))
    assert report[3].state == "held"


# ---- 4


def test_4_more_waiters_than_the_endpoint_allows() -> None:
    story = Story(max_in_flight=2)
    for rid in "abc":
        story.ok(rid, 1.0)
    only(check(story.lines()), 4, "read has 3 waiters, its limit is 2")


def test_4_a_waiter_that_is_left_behind_counts() -> None:
    story = Story(max_in_flight=1)
    story.ok("a", 1.0)
    story.ok("b", 2.0)
    assert check(story.lines())[4].state == "held"
    assert 4 in check(without(story.lines(), "waiter_del", rid="a")).violated


def test_4_more_in_the_queue_than_it_holds() -> None:
    story = Story(queue_limit=2)
    for rid in "abc":
        story.ok(rid, 1.0, wait=0.5)
    only(check(story.lines()), 4, "3 requests are admitted and have not begun, the limit is 2")


def test_4_a_place_in_the_queue_is_free_as_soon_as_time_or_order_says_so() -> None:
    story = Story(queue_limit=1)
    story.ok("a", 1.0, wait=0.5)
    story.ok("b", 1.5)  # the same instant: a tie
    story.left("c", 2.0)
    story.ok("d", 2.1)
    assert check(story.lines())[4].state == "held"
    lines = story.lines()
    begun = [line for line in lines if line["kind"] == "start" and line["rid"] == "a"]
    others = [line for line in lines if line not in begun]
    place = others.index(next(line for line in others if line["kind"] == "terminal" and line["rid"] == "a"))
    report = check(number([*others[:place], *begun, *others[place:]]))  # told late, by another thread
    assert report[4].state == "held"


def test_4_what_begins_in_the_instant_of_its_admission_was_never_in_the_queue() -> None:
    story = Story(queue_limit=1)
    for rid in "abc":
        story.ok(rid, 1.0, wait=0.0)
    assert check(story.lines())[4].state == "held"


def test_4_cannot_tell_without_limits() -> None:
    cannot(check(changed(day().lines(), lambda line: line | {"limit": 0})), 4, "the queue's limit is not in the log")
    cannot(check(changed(day().lines(), lambda line: line | {"limit": 0})), 4, "an endpoint's `max_in_flight`")


def test_4_cannot_tell_of_the_queue_when_beginnings_are_elsewhere() -> None:
    story = Story(mode="process")
    story.ok("a", 1.0)
    cannot(check(without(story.lines(), "dequeue", "start", "finish")), 4, "not all beginnings")


# ---- 5


def test_5_a_beginning_after_the_deadline() -> None:
    story = Story()
    deadline = story.admit("z", 1.0, timeout=1.0)
    story.start("z", 2.01, deadline)
    story.finish("z", 2.02, "node-failed")
    story.end("z", 2.02, "node-failed", True, begun=2.01)
    only(check(story.lines()), 5, "z began 0.010 s after its deadline")


def test_5_a_beginning_after_the_caller_has_left() -> None:
    story = day()
    story.say(1.09, "disconnect", "a", outcome="disconnect")
    only(check(story.lines()), 5, "a began after its caller had gone (disconnect)")


def test_5_a_cancellation_counts_even_where_a_leaving_does_not() -> None:
    story = day()
    story.say(1.41, "disconnect", "f", outcome="cancelled")
    only(check(story.lines()), 5, "f began after its caller had gone (cancelled)")


def test_5_a_beginning_of_what_was_cancelled() -> None:
    story = Story()
    deadline = story.admit("z", 1.0)
    story.end("z", 1.2, "cancelled", None)
    story.start("z", 1.3, deadline)
    only(check(story.lines()), 5, "z began, although it ended as `cancelled`")


def test_5_a_beginning_of_what_was_told_not_to_have_begun() -> None:
    lines = edit(day().lines(), "j", "terminal", started=False)
    only(check(lines), 5, "j began, although it ended as `node-failed`")


def test_5_a_beginning_of_what_was_rejected() -> None:
    story = day()
    story.start("c", 1.2, 11.1)
    only(check(story.lines()), 5, "c was rejected, and began")


def test_5_a_beginning_at_the_very_instant_is_a_tie() -> None:
    story = Story()
    deadline = story.admit("z", 1.0)
    story.start("z", 1.2, deadline)
    story.say(1.2, "disconnect", "z", outcome="cancelled")
    story.end("z", 1.2, "cancelled", True, begun=1.2)
    assert check(story.lines())[5].state == "held"


def test_5_a_loop_that_claims_while_the_caller_leaves_has_not_begun_after_it() -> None:
    story = Story()
    deadline = story.admit("z", 1.0)
    story.say(1.2, "disconnect", "z", outcome="cancelled")
    story.end("z", 1.2, "cancelled", True)
    story.start("z", 1.2001, deadline)
    assert check(story.lines())[5].state == "held"
    far = changed(story.lines(), lambda line: line | {"t": 1.3} if line["kind"] in {"start", "dequeue"} else line)
    only(check(far), 5, "z began after its caller had gone")


def test_5_a_loop_that_is_done_while_the_caller_leaves_has_not_begun_after_it() -> None:
    story = Story()
    story.ok("z", 1.0, wait=0.1, run=0.001)
    story.say(1.0999, "disconnect", "z", outcome="cancelled")
    assert check(story.lines())[5].state == "held"
    story.ok("y", 2.0, wait=0.1, run=0.1)
    story.say(2.0999, "disconnect", "y", outcome="cancelled")
    only(check(story.lines()), 5, "y began after its caller had gone")


def test_5_an_invalid_payload_is_claimed_and_nothing_of_the_program_began() -> None:
    story = Story()
    deadline = story.admit("z", 1.0)
    story.start("z", 1.1, deadline)
    story.finish("z", 1.2, "invalid-payload")
    story.end("z", 1.2, "invalid-payload", False)
    assert check(story.lines())[5].state == "held"


def test_5_on_another_boot_the_loops_own_deadline_counts() -> None:
    story = Story(mode="cluster")
    deadline = story.admit("z", 1000.0)
    story.end("z", 1000.5, "ok", True)
    web = story.lines()
    for late, state in ((0.0, "held"), (30.0, "violated")):
        far = Story()
        far.told.clear()
        far.start("z", 5.0 + late, 15.0)
        far.finish("z", 5.1 + late)
        far.say(50.0, "close")
        worker = number(far.told, host="far", boot="b9", pid=1)
        report = check([*web, *worker])
        assert report[5].state == state, (deadline, report.lines())
        assert report[2].state == "held"
        cannot(report, 4, "not with times of this host")


def test_5_cannot_tell_of_beginnings_that_are_not_in_the_log() -> None:
    story = Story(mode="process")
    story.ok("a", 1.0)
    story.expired("b", 1.0)
    cannot(check(without(story.lines(), "dequeue", "start", "finish")), 5, "no log says when")


def test_5_cannot_tell_without_a_deadline_or_an_admission() -> None:
    cannot(check(changed(day().lines(), lambda line: line | {"deadline": 0.0})), 5, "a deadline is not in the log")
    story = day()
    story.start("stray", 1.2, 11.1)
    cannot(check(story.lines()), 5, "whose admission is in none of these logs")
    cannot(check(story.lines()), 6, "whose admission is in none of these logs")


def test_5_what_never_began_is_told_by_a_complete_log() -> None:
    story = Story()
    story.expired("a", 1.0)
    assert check(story.lines())[5].state == "held"
    story = Story()
    story.admit("a", 1.0)
    assert check(story.lines())[5].state == "not checkable"


# ---- 6


def test_6_a_request_that_begins_twice() -> None:
    story = day()
    story.start("a", 1.15, 11.0)
    only(check(story.lines()), 6, "a began 2 times and is not idempotent")


def test_6_an_idempotent_request_that_begins_too_often() -> None:
    story = day()
    for attempt in (3, 4):
        story.start("i", 2.15, 11.7, attempt=attempt)
    only(check(story.lines()), 6, "i began 4 times, MAX_DELIVERIES is 3")


def test_6_a_second_beginning_with_more_time() -> None:
    lines = changed(day().lines(), lambda line: line | {"deadline": 13.0} if line["kind"] == "start"
                    and line["attempt"] == 2 else line)  # fmt: skip
    only(check(lines), 6, "i began again with a later deadline")


def test_6_cannot_tell_without_the_number_of_deliveries() -> None:
    cannot(check(changed(day().lines(), lambda line: line | {"value": 0.0})), 6, "`MAX_DELIVERIES` is not in the log")


def test_6_cannot_tell_of_what_began_unseen() -> None:
    cannot(check(without(day().lines(), "start", rid="a")), 6, "no log says when")


def test_6_a_rejected_request_that_begins_is_not_its_affair() -> None:
    story = day()
    story.start("c", 1.2, 11.1)
    assert check(story.lines())[6].state == "held"


# ---- 7


def test_7_a_death_whose_request_ends_too_late() -> None:
    lines = changed(day().lines(), lambda line: line | {"t": line["t"] + 0.2} if line["rid"] == "h"
                    and line["kind"] in {"terminal", "waiter_del"} else line)  # fmt: skip
    only(check(lines), 7, "h outlived its worker's death by 0.210 s")


def test_7_a_death_whose_request_never_ends() -> None:
    report = check(without(day().lines(), "terminal", rid="h"))
    assert 7 in report.violated
    assert any("h has no outcome, and its worker is gone" in v.text for v in report[7].violations)


def test_7_a_request_that_had_not_begun_is_lost() -> None:
    story = day()
    story.admit("z", 1.65)
    story.end("z", 1.91, "worker-lost", False)
    only(check(story.lines()), 7, "z had not begun, and was lost with a worker")


def test_7_a_request_that_had_not_begun_is_forgotten() -> None:
    story = day()
    story.expired("z", 1.65)
    assert check(story.lines())[7].state == "held"  # it may have waited for its turn
    for rid, t in (("y", 6.0), ("x", 5.0), ("w", 7.0)):
        story.ok(rid, t)
    only(check(story.lines()), 7, "z waited when a worker died, and was passed over")


def test_7_behind_a_worker_that_hangs_a_request_is_overtaken_rightfully() -> None:
    for others, state in (((), "violated"), (("loop-2",), "held")):
        story = Story(mode="process")
        for worker in ("loop-1", "loop-of-h", *others):
            story.say(0.5, "worker_up", worker=worker)
        story.lost("h", 1.6)
        story.expired("z", 1.65)
        story.ok("y", 6.0)
        assert check(story.lines())[7].state == state


@pytest.mark.parametrize(("wait", "state"), [(5.649, "violated"), (5.651, "held")])
def test_7_what_began_when_a_request_was_past_its_own_deadline_did_not_pass_it_over(wait: float, state: str) -> None:
    story = day()
    story.expired("z", 1.65)  # ends at 11.652, 2 ms after its deadline
    story.ok("y", 6.0, wait=wait)
    assert check(story.lines())[7].state == state


def test_7_a_lag_excuses_a_late_end() -> None:
    story = day()
    story.lag(1.9, 2.1)
    lines = changed(story.lines(), lambda line: line | {"t": line["t"] + 0.2} if line["rid"] == "h"
                    and line["kind"] in {"terminal", "waiter_del"} else line)  # fmt: skip
    report = check(lines)
    assert report[7].state == "held"
    assert report[7].excused == 1


def test_7_a_worker_that_had_finished_lost_nothing() -> None:
    story = Story()
    story.ok("a", 1.0)
    story.ok("b", 1.0, wait=1.0)
    story.say(1.3005, "worker_lost", worker="loop-1", outcome="killed")
    assert check(story.lines())[7].state == "held"


def test_7_a_loop_that_was_stopped_did_not_die() -> None:
    story = Story()
    story.ok("a", 1.0)
    story.say(2.0, "worker_lost", worker="loop-1", outcome="stopped")
    cannot(check(story.lines()), 7, "no worker died with work at hand")


def test_7_a_request_without_an_enqueue_waits_for_nothing() -> None:
    story = day()
    story.admit("z", 1.65)
    story.say(1.7, "disconnect", "z", outcome="cancelled")
    story.end("z", 11.65, "upload-timeout", False)
    assert check(without(story.lines(), "enqueue", rid="z"))[7].state == "held"


def test_7_cannot_tell_in_cluster_mode_nor_without_the_workers_logs() -> None:
    story = Story(mode="cluster")
    story.lost("a", 1.0)
    cannot(check(story.lines()), 7, "in cluster mode")
    story = Story(mode="process")
    story.lost("a", 1.0)
    cannot(check(without(story.lines(), "start", "dequeue")), 7, "not all beginnings")


def test_7_cannot_tell_of_a_death_at_the_very_end_of_a_log() -> None:
    story = Story()
    deadline = story.admit("a", 1.0)
    story.start("a", 1.1, deadline, worker="loop-9")
    story.say(1.2, "worker_lost", worker="loop-9", outcome="killed")
    cannot(check(story.lines(close=False)), 7, "the log ends before")


# ---- 8


def test_8_an_admission_after_the_drain_has_begun() -> None:
    story = day()
    story.ok("z", 20.1)
    only(check(story.lines()), 8, "z was admitted 0.100 s after the drain began")


def test_8_an_admission_after_the_delay() -> None:
    story = Story()
    story.ok("a", 1.0)
    story.drain(2.0, delay=5.0, end=9.0)
    story.ok("b", 3.0)
    story.ok("c", 7.009)
    assert check(story.lines())[8].state == "held"
    story.ok("d", 7.5)
    only(check(story.lines()), 8, "d was admitted when the drain's delay was over by 0.500 s")
    story.lag(6.9, 7.495)
    report = check(story.lines())
    assert report[8].state == "held"
    assert report[8].excused == 1


def test_8_a_waiter_that_is_settled_too_late() -> None:
    story = Story()
    story.admit("z", 1.0)
    story.drain(2.0, budget=3.0)
    story.end("z", 5.3, "drain-cut", False)
    only(check(story.lines()), 8, "z outlived the drain's budget by 0.300 s")
    story.lag(5.1, 5.29)
    report = check(story.lines())
    assert report[8].state == "held"
    assert report[8].excused == 1


def test_8_a_waiter_that_is_never_settled() -> None:
    story = day()
    story.admit("z", 19.0, timeout=100.0)
    cannot(check(story.lines(close=False)), 8, "the log ends before the drain's budget had")
    story.say(40.26, "lag", value=0.001)
    only(check(story.lines(close=False)), 8, "z was not settled when the drain's budget had ended")


def test_8_a_waiter_without_an_outcome_is_settled_when_it_is_gone() -> None:
    story = Story()
    story.ok("a", 1.0, wait=0.5)
    story.ok("b", 1.0)
    story.drain(1.1, end=2.0)
    assert check(without(story.lines(), "terminal", rid="a"))[8].state == "held"


# ---- 9


def test_9_a_late_reply_that_nobody_counted() -> None:
    only(check(without(day().lines(), "late_drop", rid="g")), 9, "a reply to g came late")


def test_9_a_duplicate_reply_that_nobody_counted() -> None:
    story = day()
    story.finish("a", 1.5)
    only(check(story.lines()), 9, "a reply to a came late")


def test_9_a_reply_that_is_dropped_while_it_is_waited_for() -> None:
    story = day()
    story.say(1.2, "late_drop", "a", endpoint="", outcome="ok")
    only(check(story.lines()), 9, "a reply to a was dropped while it was waited for")


def test_9_a_reply_that_is_dropped_and_never_had() -> None:
    story = Story()
    deadline = story.admit("a", 1.0)
    story.start("a", 1.1, deadline)
    story.finish("a", 1.2)
    story.say(1.2, "late_drop", "a", endpoint="", outcome="ok")
    report = check(story.lines(close=False))
    assert report.violated == (9,)


def test_9_a_reply_of_an_attempt_that_was_given_up_is_late() -> None:
    story = day()
    story.finish("i", 2.15, worker="loop-of-i")
    story.say(2.16, "late_drop", "i", endpoint="", outcome="ok")
    assert check(story.lines())[9].state == "held"


def test_9_a_duplicate_of_one_finish_is_dropped() -> None:
    story = Story()
    story.ok("a", 1.0)
    story.say(1.4, "late_drop", "a", endpoint="", outcome="ok")
    assert check(story.lines())[9].state == "held"


def test_9_a_reply_for_nobody_is_dropped() -> None:
    story = Story()
    story.say(1.4, "late_drop", "from-before", endpoint="", outcome="ok")
    assert check(story.lines())[9].state == "held"


def test_9_a_reply_that_died_with_its_worker_or_came_at_the_very_end_is_not_missed() -> None:
    story = day()
    story.say(12.01, "worker_lost", worker="loop-1", outcome="killed")
    assert check(without(story.lines(), "late_drop"))[9].state == "not checkable"
    story = Story()
    story.late("a", 1.0)
    lines = without(story.lines(close=False), "late_drop")
    cannot(check(lines), 9, "no reply came late")


# ---- several processes


def two_processes() -> tuple[Lines, Lines]:
    """A web process and a worker's own log."""
    story = Story(mode="process")
    story.ok("a", 1.0)
    story.expired("b", 1.1)
    story.late("c", 1.2)
    story.lost("d", 1.3)
    lines = story.lines()
    loops = {"dequeue", "start", "finish"}
    web = number(line for line in lines if line["kind"] not in loops)
    end = {"t": 20.0, "rid": "", "kind": "close"}
    worker = number([*(line for line in lines if line["kind"] in loops), end], pid=8, run="r1")
    return web, worker


def test_the_logs_of_web_and_worker_are_read_together() -> None:
    web, worker = two_processes()
    report = check([*worker, *web])
    assert [verdict.state for verdict in report.verdicts] == ["held"] * 7 + ["not checkable", "held"], report.lines()


def test_a_workers_log_alone_tells_nothing() -> None:
    _, worker = two_processes()
    cannot(check(worker), 1, "no log of a process with waiters")
    cannot(check([{"t": 0.0, "kind": "open", "mode": "worker"}, *worker]), 1, "no log of a process with waiters")


def test_a_workers_log_that_breaks_off_proves_no_absence() -> None:
    web, worker = two_processes()
    cut = [line for line in worker if line["kind"] not in {"close", "finish"}]
    cannot(check([*web, *number(cut, pid=8, run="r1")]), 2, "no complete log of the loops")


def test_a_workers_log_whose_head_is_missing_proves_nothing() -> None:
    web, worker = two_processes()
    cannot(check([*web, *worker[1:]]), 2, "lines of process 8 on web-1 are missing")


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_says_what_it_is(promise: int) -> None:
    text, function, _ = PROMISES[promise]
    assert text
    assert function.__doc__ is not None
    assert function.__doc__.startswith(f"Promise {promise}:")

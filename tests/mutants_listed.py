"""The defects that the tests of `core/` and `ingress/` must find.

Owns the list: a file, a fragment that stands in it exactly once, what stands there instead, and what that would mean.
"""

from typing import NamedTuple


class Defect(NamedTuple):
    file: str
    fragment: str
    instead: str
    meaning: str


DEFECTS = (
    # ---- core/admission.py
    Defect(
        "core/admission.py",
        "if not self._crew.available(now, endpoint):",
        "if not self._crew.usable:",
        "a death refuses what might have waited a moment",
    ),
    Defect(
        "core/admission.py",
        "(policy.name) >= policy.max_in_flight:\n            return errors.EndpointBusy\n        backlog",
        "(policy.name) > policy.max_in_flight:\n            return errors.EndpointBusy\n        backlog",
        "one waiter too many is admitted",
    ),
    Defect(
        "core/admission.py",
        "if closed is None and self._waiters.count(policy.name) >= policy",
        "if closed is None and self._waiters.count(policy.name) > policy",
        "whoever comes to a full house is let in",
    ),
    Defect(
        "core/admission.py",
        "len(backlog.places) - len(backlog.counted) >= self.queue_limit",
        "len(backlog.line) >= self.queue_limit",
        "what lies in a worker's buffer is not counted as queued",
    ),
    Defect(
        "core/admission.py",
        "backlog.bytes + declared > self.queue_bytes",
        "declared > self.queue_bytes",
        "bytes are bounded for each request, and not for all",
    ),
    Defect("core/admission.py", "if span > 0 else", "if span >= 0 else", "the first refusal divides by nothing"),
    # ---- core/backlog.py
    Defect(
        "core/backlog.py",
        "(envelope.rid, *reversed(before))",
        "reversed(before)",
        "what came back waits behind all",
    ),
    Defect(
        "core/backlog.py",
        "(envelope.rid, *reversed(before))",
        "(envelope.rid,)",
        "what came back last is the first to go",
    ),
    Defect("core/backlog.py", "*reversed(before)", "*before", "what came back earlier is turned round"),
    Defect(
        "core/backlog.py",
        "self._given_back.get(rid, order) < order",
        "self._given_back.get(rid, 0) < order",
        "what came back stands behind what was never handed out",
    ),
    Defect(
        "core/backlog.py",
        "        self._given_back.pop(rid, None)\n        return envelope",
        "        return envelope",
        "what came back once is remembered for ever",
    ),
    Defect(
        "core/backlog.py",
        "            self.line.pop(rid, None)\n            self._given_back.pop(rid, None)\n",
        "            self.line.pop(rid, None)\n",
        "what came back and left is remembered for ever",
    ),
    Defect("core/backlog.py", "popitem(last=False)", "popitem(last=True)", "the last to come is the first to go"),
    Defect("core/backlog.py", "            self.bytes -= size", "            pass", "bytes are reserved for ever"),
    # ---- core/waiters.py
    Defect("core/waiters.py", "self._counts[waiter.policy.name] -= 1", "pass", "an endpoint's limit fills up for ever"),
    Defect(
        "core/waiters.py",
        "waiter is not None and waiter.due_at == when",
        "waiter is not None",
        "a waiter that was postponed is named too early",
    ),
    # ---- core/drain.py, core/lifecycle.py
    Defect("core/drain.py", "and not self.cut:", "and self.cut:", "a drain never cuts"),
    Defect("core/drain.py", "min(self.delay, self.timeout)", "self.delay", "a delay outlives the budget"),
    Defect(
        "core/lifecycle.py",
        "ADMITS = frozenset({State.SERVING, State.LEAVING})",
        "ADMITS = frozenset({State.SERVING})",
        "nothing is admitted while load balancers are still being told",
    ),
    # ---- core/durations.py
    Defect("core/durations.py", "max(latest, before", "min(latest, before", "what turned out slow counts as quick"),
    Defect("core/durations.py", "// 8)", "// 1)", "one quick request makes a slow endpoint count as quick"),
    Defect(
        "core/durations.py",
        "max(0, int(seconds * 1e6))",
        "int(seconds * 1e6)",
        "a clock makes work cost less than nothing",
    ),
    Defect("core/durations.py", "endpoint, UNKNOWN)", "endpoint, 0)", "what nothing is known of counts as quick"),
    Defect(
        "core/durations.py",
        "max(self._expected[endpoint], _cost(seconds))",
        "_cost(seconds)",
        "what has not ended makes a slow endpoint count as quick",
    ),
    Defect(
        "core/durations.py",
        "        if endpoint in self._expected:\n            self._expected[endpoint] = max(self._expected[endpoint], ",
        "        if True:\n            self._expected[endpoint] = max(self._expected.get(endpoint, 0), ",
        "what has not ended makes a new endpoint count as quick",
    ),
    # ---- core/respawn.py
    Defect("core/respawn.py", "            self._failures = 0\n", "", "a place never recovers from its failures"),
    Defect(
        "core/respawn.py", "lived is not None and (", "(", "a worker that never was ready counts as one that served"
    ),
    Defect(
        "core/respawn.py",
        "handed or lived >= BRIEF",
        "handed and lived >= BRIEF",
        "a brief life of service is a failure",
    ),
    Defect("core/respawn.py", "min(LONGEST, ", "max(LONGEST, ", "the first back-off is the longest"),
    Defect("core/respawn.py", "min(self._failures - 1, 16)", "(self._failures - 1)", "days of failures overflow"),
    Defect("core/respawn.py", "(0.5 + random / 2)", "(1.0 + random * 0)", "hosts that fail together try together"),
    # ---- core/crew.py: who is there
    Defect("core/crew.py", "now - since < PATIENCE and", "since and", "work is queued for nobody, for ever"),
    Defect("core/crew.py", " or not worker.retired:", " or True:", "a worker that is about to leave counts as idle"),
    Defect("core/crew.py", " and self._failed_starts < FAILED_STARTS", "", "failed starts are no news"),
    Defect(
        "core/crew.py",
        "        self._failed_starts = 0\n        before",
        "        before",
        "failures of long ago refuse",
    ),
    Defect(
        "core/crew.py",
        "self.usable -= before.usable",
        "self.usable -= 1",
        "a wedged worker that is replaced counts twice",
    ),
    Defect(
        "core/crew.py", "            before.retired = True\n", "", "a worker is handed work after it was told to end"
    ),
    Defect(
        "core/crew.py",
        "self._lose(worker.usable, now)",
        "self._lose(1, now)",
        "a wedged worker's end takes another's place",
    ),
    Defect(
        "core/crew.py",
        "if count and not self.usable and not self.shared:",
        "if not self.usable and not self.shared:",
        "the death of a worker that was of no use prolongs the patience",
    ),
    Defect("core/crew.py", "not self.usable and not self.shared:", "not self.usable:", "wedged threads are waited for"),
    Defect(
        "core/crew.py",
        "        self._ahead -= max(0, worker.held - worker.loops)\n",
        "",
        "what died with its worker is watched for ever",
    ),
    Defect(
        "core/crew.py",
        "            del self._holdings[rid]\n            self",
        "            self",
        "a dead worker holds on",
    ),
    # ---- core/crew.py: who is handed what
    Defect("core/crew.py", "if load < least and worker.usable", "if load < least", "a wedged worker is handed work"),
    Defect("core/crew.py", "if load < least and", "if load <= least and", "the last of equals is chosen"),
    Defect("core/crew.py", "load = worker.held / worker.loops", "load = worker.held", "big workers count as busy ones"),
    Defect("core/crew.py", "load < 1.0 or", "load <= 1.0 or", "one more than there are loops is handed, however slow"),
    Defect(
        "core/crew.py",
        "worker.held < worker.loops + self._read_ahead and",
        "True and",
        "a worker's buffer has no bound",
    ),
    Defect(
        "core/crew.py", "expected <= AHEAD * worker.loops", "expected <= AHEAD", "more loops are expected to do no more"
    ),
    Defect(
        "core/crew.py", "self._read_ahead and expected <=", "self._read_ahead or expected <=", "slow work is read ahead"
    ),
    Defect(
        "core/crew.py",
        "worker.stuck or worker.overdue",
        "worker.overdue",
        "what was taken back goes to the same worker again",
    ),
    Defect("core/crew.py", "worker.stuck or worker.overdue", "worker.stuck", "work is read ahead behind what hangs"),
    Defect(
        "core/crew.py",
        "            worker.stuck = False\n",
        "            pass\n",
        "a worker that was stuck once is never read ahead",
    ),
    Defect("core/crew.py", "        worker.expected += expected\n", "", "every worker seems to have time"),
    Defect(
        "core/crew.py", "        worker.expected -= holding.expected\n", "", "no worker ever seems to have time again"
    ),
    Defect("core/crew.py", "        worker.held -= 1\n", "", "a worker's places run out"),
    Defect(
        "core/crew.py",
        "        if worker.held > worker.loops:\n            self._ahead -= 1\n",
        "",
        "every end is followed by a search for what lies elsewhere",
    ),
    Defect("core/crew.py", "by and holding.worker.name != by", "False", "the late word of a dead worker frees another"),
    # ---- core/crew.py: taking back
    Defect("core/crew.py", "if due <= now:", "if True:", "what has just been handed out is taken back"),
    Defect(
        "core/crew.py", "patience = STRANDED if free else STUCK", "patience = STRANDED", "it is taken back for nobody"
    ),
    Defect(
        "core/crew.py",
        "patience = STRANDED if free else STUCK",
        "patience = STUCK",
        "a loop is free, and work lies elsewhere for long",
    ),
    Defect(
        "core/crew.py",
        "patience = STRANDED if free else STUCK",
        'patience = STRANDED if free else float("inf")',
        "what lies behind a hung node starves under a steady line",
    ),
    Defect("core/crew.py", "                worker.stuck = True\n", "", "what was taken back goes where it came from"),
    Defect(
        "core/crew.py",
        '                worker.buffered[rid] = float("inf")\n                w',
        "                w",
        "it is asked back again and again",
    ),
    Defect(
        "core/crew.py",
        "any(worker.usable and worker.held",
        "any(worker.held",
        "work is taken back for a worker that may have none",
    ),
    Defect(
        "core/crew.py",
        "worker.usable and worker.held < worker.loops",
        "worker.usable",
        "work is taken back though nobody is free",
    ),
    Defect("core/crew.py", "max(0, worker.loops - len(worker.running))", "0", "what is about to begin is taken back"),
    Defect(
        "core/crew.py",
        '            holding.worker.buffered[rid] = float("inf")\n',
        "            pass\n",
        "what was asked back already is asked back again",
    ),
    Defect("core/crew.py", "first = min(wedged, stranded)", "first = wedged", "nobody looks at what lies elsewhere"),
    # ---- core/crew.py: hung loops
    Defect(
        "core/crew.py", "self._abandoned[rid] + self._kill_grace", "self._abandoned[rid]", "a hung loop has no grace"
    ),
    Defect(
        "core/crew.py",
        "        if rid in self._abandoned:\n            self._mark(rid, worker)\n",
        "",
        "a late beginning is never judged",
    ),
    Defect("core/crew.py", "(self._spare is None or standing < self._spare)", "True", "fresh threads without a bound"),
    Defect(
        "core/crew.py", "                worker.replaced = True\n", "", "a wedged worker is replaced again and again"
    ),
    Defect("core/crew.py", "self.usable += worker.usable\n\n", "self.usable += 1\n\n", "a retired worker comes back"),
    # ---- ingress/gateway.py
    Defect(
        "ingress/gateway.py",
        "        if not begun:  # or nobody will ever know",
        "        if begun is False:",
        "what nobody will ever know of holds its place for good",
    ),
    Defect(
        "ingress/gateway.py",
        "        if self.crew.counted_there:\n            self.backlog.elsewhere(report.rid)",
        "        self.backlog.elsewhere(report.rid)",
        "what a broker takes and does not count is counted nowhere",
    ),
    Defect(
        "ingress/gateway.py",
        "            else:\n                self._watch_crew()",
        "            else:\n                pass",
        "a loop is free, and nobody looks at what lies elsewhere",
    ),
    Defect(
        "ingress/gateway.py",
        "                self._look(self._clock() + STUCK)",
        "                pass",
        "nobody looks at what lies behind a hung node while there is a line",
    ),
    Defect(
        "ingress/gateway.py",
        "self._apply[type(report)](report)",
        "self._apply[type(report)](report)\n                self._dispatch()",
        "work is handed out before all is read that has come",
    ),
    Defect(
        "ingress/gateway.py",
        "if self.backlog.line or self.crew.reads_ahead:",
        "if self.backlog.line:",
        "an end frees a loop unseen",
    ),
    Defect("ingress/gateway.py", "outcome.begun_at and not self", "not self", "what never began counts as having run"),
    Defect(
        "ingress/gateway.py",
        "outcome.ended_at - outcome.begun_at if",
        "0.0 if",
        "every endpoint counts as quick",
    ),
    Defect(
        "ingress/gateway.py",
        "- outcome.begun_at if outcome.last else waiter.policy.timeout",
        "- outcome.begun_at",
        "what goes on after its reply counts as quick",
    ),
    Defect(
        "ingress/gateway.py",
        "self.crew.ran(waiter.policy.name, now - waiter.begun_at)",
        "pass",
        "what runs into its deadline counts as quick",
    ),
    Defect(
        "ingress/gateway.py",
        "self.crew.ran(waiter",
        "self.crew.took(waiter",
        "what was cancelled soon counts as quick",
    ),
    Defect(
        "ingress/gateway.py",
        "            waiter.begun_at = 0.0\n",
        "",
        "an attempt that was lost counts for the next",
    ),
    Defect("ingress/gateway.py", "            self._take_back(now)\n", "", "nothing is ever taken back"),
    Defect(
        "ingress/gateway.py",
        "        self._queued += 1\n",
        "",
        "what comes back stands in the order in which it came back",
    ),
    Defect(
        "ingress/gateway.py",
        "                self._answered_for(rid, begun=False)\n\n    def _replace",
        "                pass\n\n    def _replace",
        "what a worker lets go at once is lost",
    ),
    Defect(
        "ingress/gateway.py",
        "if self._sink.withdraw(rid):",
        "if self._sink.withdraw(rid) is not False:",
        "what was only asked back is handed out a second time",
    ),
    Defect(
        "ingress/gateway.py",
        "                self.crew.asked(waiter.rid)\n",
        "                pass\n",
        "what is recalled is asked back again",
    ),
    Defect(
        "ingress/gateway.py",
        "                self._queue_again(waiter)  # taken back for whoever is free\n                return\n",
        "                return\n",
        "what was taken back is lost",
    ),
    Defect(
        "ingress/gateway.py",
        "for whoever is free\n                return\n",
        "for whoever is free\n",
        "what was taken back loses its place",
    ),
    Defect("ingress/gateway.py", "            self.crew.failed()\n", "            pass\n", "a failed start is no news"),
    Defect("ingress/gateway.py", "report.loops, report.replaces)", "report.loops)", "a successor is one more"),
    Defect("ingress/gateway.py", "            waiter.attempt += 1\n", "", "a request begins without end"),
    Defect(
        "ingress/gateway.py",
        "        if not recalled:\n            self",
        "        if True:\n            self",
        "what may yet begin is not counted",
    ),
    Defect(
        "ingress/gateway.py",
        "attempt != waiter.attempt:\n            return  # an",
        "attempt != waiter.attempt + 9:\n            return  # an",
        "an earlier attempt's beginning counts",
    ),
    Defect(
        "ingress/gateway.py",
        "            if not outcome.last:\n                self._abandon(waiter)\n",
        "",
        "work after the reply may take for ever",
    ),
    Defect(
        "ingress/gateway.py",
        "waiter.phase < Phase.RECALLED and waiter.promise",
        "waiter.promise",
        "what is being taken back is withdrawn once more",
    ),
    Defect(
        "ingress/gateway.py",
        "            self._sink.settle()  # as `open` does\n",
        "",
        "whoever comes is sent away for what has ended",
    ),
    Defect("core/admission.py", "if crowded or self", "if self", "one caller may have everything"),
    # ---- streams
    Defect(
        "ingress/gateway.py",
        "if waiter is None or report.attempt != waiter.attempt:",
        "if waiter is None:",
        "what an earlier attempt streamed is heard",
    ),
    Defect(
        "ingress/gateway.py",
        "            self.take(waiter, report)  # its caller",
        "            pass  # its caller",
        "what goes on without its caller waits for it",
    ),
    Defect("ingress/gateway.py", "            waiter.heard = True\n", "", "a stream begins again in its middle"),
    Defect("ingress/gateway.py", " and not waiter.heard\n", "\n", "a stream of which something was heard is run again"),
    Defect(
        "ingress/gateway.py",
        "        waiter.taken += len(chunk.payload) + FRAME\n",
        "        waiter.taken += len(chunk.payload)\n",
        "small messages are never granted in full",
    ),
    Defect(
        "ingress/gateway.py",
        "            self._sink.grant(waiter.rid, waiter.taken)\n            waiter.taken = 0\n",
        "            self._sink.grant(waiter.rid, waiter.taken)\n",
        "what was taken once is granted again and again",
    ),
    Defect("ingress/gateway.py", "waiter.taken >= WINDOW // 4", "waiter.taken >= WINDOW", "a loop waits for too long"),
    Defect(
        "ingress/gateway.py",
        "                self._sink.grant(waiter.rid, ENDLESS)\n",
        "",
        "what goes on without its caller waits for it, with its window full",
    ),
    Defect(
        "ingress/gateway.py",
        "waiter.envelope = waiter.hears = None",
        "waiter.envelope = None",
        "what a stream holds is left to the garbage collector",
    ),
    Defect("ingress/streaming.py", "            self._gateway.take(self._waiter, first)\n", "", "nothing is granted"),
    Defect("ingress/streaming.py", "        self._share.done()\n", "", "a flood is taken without a pause"),
    Defect("ingress/streaming.py", "        await self.turn()\n", "", "whoever takes one by one takes a flood at once"),
    Defect("ingress/turns.py", "(1 + turns.waiting)", "1", "of several each takes as much as one alone"),
    Defect("ingress/turns.py", "            turns.waiting -= 1", "            pass", "turns get shorter and shorter"),
    Defect(
        "ingress/streaming.py",
        "            self._heard.pop()  #",
        "            pass  #",
        "progress that nobody looks at piles up",
    ),
    Defect(
        "ingress/streaming.py",
        "        while not self._heard and not self.promise.done():",
        "        while not self.promise.done():",
        "stream messages wait for the end",
    ),
    Defect(
        "ingress/streaming.py",
        "        return self._take() if self._heard else self.promise.result()",
        "        return self.promise.result() if self.promise.done() else self._take()",
        "the outcome overtakes stream messages",
    ),
    Defect(
        "ingress/asking.py",
        "            raise self._error(heard)\n",
        "            raise StopAsyncIteration\n",
        "a failure looks like the end",
    ),
)

"""Streams of small chunks over a WebSocket and as server-sent events: what a chunk costs, and when the first is there.

`async def` computes nothing: it sends the same bytes again and again, once they are written. In offloop every chunk is
a model that a node has made: it is validated, written as JSON, handed over and counted against what its caller took.

What a chunk costs is CPU time of all the server's processes. It is what a request of more chunks takes more than one of
fewer, by the chunks that are more, from 1 up to the longest: what a request costs by itself is not in it.
"""

from dataclasses import asdict, dataclass
from statistics import median

from report import Part, Verdict, ms, ms_range, spread, table
from routes import ECHO
from stream_load import Streamed, stream
from systems import ASYNC_DEF, PROCESS, THREAD, System
from workloads import Plan, Rounds, say, side_by_side

SMALL, LARGE = 16, 2**14
"""Characters of a chunk's payload."""
LENGTHS = (1, 100, 10_000)
"""Chunks in a request, where it is asked what one of them costs."""
LONGEST = LENGTHS[-1]
MANY = 16
STEPS = ((1, 100), (100, LONGEST))
"""From how many chunks to how many it is asked what each further one costs."""
GOAL_FLAT = 1.25
NAMES = {"ws": "WebSocket", "sse": "server-sent events"}
BUSY = 0.9
"""The share of a CPU from which on the load itself may be what holds it up."""


@dataclass(frozen=True)
class Case:
    """One kind of request, and on how many connections it is asked."""

    pieces: int
    size: int = SMALL
    connections: int = 1
    over: str = "ws"

    def __str__(self) -> str:
        return f"{NAMES[self.over]}, {self.connections} connections, {self.pieces} chunks of {self.size}"

    def measure(self, port: int, seconds: int) -> Streamed:
        return stream(port, self.over, self.pieces, self.size, self.connections, seconds)


BY_LENGTH = {pieces: Case(pieces) for pieces in LENGTHS}
ALONE = BY_LENGTH[1]
"""One chunk and the reply: it is asked how soon the chunk comes, too."""
RATES = (
    BY_LENGTH[LONGEST],
    Case(LONGEST, connections=MANY),
    Case(1_000, LARGE),
    Case(LONGEST, over="sse"),
    Case(LONGEST, connections=MANY, over="sse"),
)
CASES = (*BY_LENGTH.values(), *RATES[1:])

Found = Rounds[Streamed]


def run(plan: Plan) -> Part:
    part, rounds = Part(), Found()
    with side_by_side(plan, plan.of(ASYNC_DEF, THREAD, PROCESS), ECHO, part) as ports:
        for port in ports.values():
            Case(1_000, connections=MANY).measure(port, 1)  # warm
        for number in range(plan.rounds):
            say(f"stream: round {number + 1} of {plan.rounds}")
            for case in CASES:
                for system, port in ports.items():
                    rounds.note(str(case), system, number, case.measure(port, plan.seconds))
    systems = list(ports)
    rates = table(
        "streams, one worker", "over", "connections", "chunk", "system", "chunks/s", "× async def (range)", "MB/s"
    )
    for case in RATES:
        for system in systems:
            rates.add_row(
                NAMES[case.over], str(case.connections), f"{case.size:,} B", system.name, *_rate(rounds, case, system)
            )
        rates.add_section()
    firsts = table(
        "one chunk and the reply, WebSocket, 1 connection",
        *("system", "first chunk, p50", "× async def (range)", "p99, ms (range)", "reply, p50"),
    )
    costs = table(
        "CPU time of the server for each further chunk, µs, WebSocket, 1 connection",
        *("system", *(f"{few:,} to {many:,}" for few, many in STEPS), "the last / the first (range)", "a request of 1"),
    )
    for system in systems:
        firsts.add_row(system.name, *_first(rounds, system))
        costs.add_row(system.name, *_cost(rounds, system))
    part.tables, part.verdicts, part.spoilt = [rates, firsts, costs], _verdicts(rounds), rounds.spoilt()
    part.remarks = _remarks(rounds)
    part.measured = {
        what: {name: [asdict(one) for one in many.values()] for name, many in named.items()}
        for what, named in rounds.items()
    }
    return part


def _rate(rounds: Found, case: Case, system: System) -> list[str]:
    found = rounds.of(str(case), system)
    return [
        f"{median(one.chunk_rate for one in found):,.0f}",
        spread(rounds.ratios(str(case), system, ASYNC_DEF)),
        f"{median(one.bytes / one.seconds for one in found) / 1e6:,.1f}",
    ]


def _first(rounds: Found, system: System) -> list[str]:
    found = rounds.of(str(ALONE), system)
    return [
        ms(median(one.first_p50 for one in found)),
        spread(rounds.ratios(str(ALONE), system, ASYNC_DEF, lambda one: one.first_p50)),
        ms_range(one.first_p99 for one in found),
        ms(median(one.whole_p50 for one in found)),
    ]


def _cost(rounds: Found, system: System) -> list[str]:
    return [
        *(f"{1e6 * median(_further(rounds, system, *step)):.1f}" for step in STEPS),
        spread(_growth(rounds, system)),
        f"{1e6 * median(one.cpu_a_request for one in rounds.of(str(ALONE), system)):.0f}",
    ]


def _further(rounds: Found, system: System, few: int, many: int) -> list[float]:
    """Seconds of CPU for each chunk of many that is not among few, by round."""
    pairs = zip(rounds.of(str(BY_LENGTH[many]), system), rounds.of(str(BY_LENGTH[few]), system), strict=True)
    return [(long.cpu_a_request - short.cpu_a_request) / (many - few) for long, short in pairs]


def _growth(rounds: Found, system: System) -> list[float]:
    """By how much one of the last chunks costs more than one of the first, by round."""
    first, last = (_further(rounds, system, *step) for step in STEPS)
    return [one / other for one, other in zip(last, first, strict=True) if other > 0]


def _verdicts(rounds: Found) -> list[Verdict]:
    verdicts = []
    for system in (PROCESS, THREAD):
        if growth := _growth(rounds, system):
            (_, few), (_, many) = STEPS
            goal = f"{system.name}: a chunk up to {many:,} costs at most {GOAL_FLAT} times what one up to {few} does"
            verdicts.append(Verdict(goal, f"{median(growth):.2f} times", median(growth) <= GOAL_FLAT))
    return verdicts


def _remarks(rounds: Found) -> list[str]:
    """A word where the load may have been the slower side."""
    shares = {
        f"{what}, {name}": median(one.load_cpu / one.seconds for one in many.values())
        for what, named in rounds.items()
        for name, many in named.items()
    }
    return [f"{where}: the load itself took {share:.0%} of a CPU" for where, share in shares.items() if share > BUSY]

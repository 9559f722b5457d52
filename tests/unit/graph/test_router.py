"""The walk of one request. Programs are real modules; `seen` is what their nodes noted, in order."""

import logging
from textwrap import dedent

import pytest

from offloop import Job
from offloop.errors import Cancelled, DeadlineExceeded, NodeFailed, Problem
from tests.unit.graph.programs import Heard, module_of, run

SEEN = "seen = []\n"


def walked(load, source, endpoint="ask", job=None, out=None):
    """Runs A(1) through a program; returns its module and what came out."""
    program = load(SEEN + dedent(source))
    user = module_of(program)
    return user, run(program, endpoint, user.A(1), job, out)


def test_one_function_answers_in_a_straight_line(load):
    user, out = walked(load, "@endpoint\ndef ask(a: A) -> B: return B(a.n + 1)")

    assert (out.replies, out.lasts) == ([user.B(2)], [True])


def test_a_builtin_and_a_container_may_be_a_reply(load):
    program = load(
        """
        @endpoint
        def count(words: list[str]) -> dict[str, int]: return {word: len(word) for word in words}
        @endpoint
        def pages(a: A) -> list[B]: return [B()]
        """
    )

    assert run(program, "count", ["ab"]).replies == [{"ab": 2}]
    assert run(program, "pages", module_of(program).A()).replies == [[module_of(program).B()]]


def test_messages_find_their_way_by_type(load):
    user, out = walked(
        load,
        """
        @node
        def first(a: A) -> B: return B(a.n + 1)
        @node
        def second(b: B) -> C: return C(b.n + 1)
        ask = Endpoint("ask", A, C)
        """,
    )

    assert (out.replies, out.lasts) == ([user.C(3)], [True])


def test_consumers_are_called_first_in_first_out_in_the_order_of_their_lines(load):
    user, out = walked(
        load,
        """
        @node
        def split(a: A) -> Iterator[B]:
            for n in (1, 2):
                seen.append(f"split {n}")
                yield B(n)
        @node
        def hear(b: B) -> C | None:
            seen.append(f"hear {b.n}")
            return C(b.n) if b.n == 2 else None
        @node
        def note(b: B) -> None: seen.append(f"note {b.n}")
        @node
        def last(c: C) -> D: return D(c.n)
        ask = Endpoint("ask", A, D)
        """,
    )

    assert user.seen == ["split 1", "split 2", "hear 1", "note 1", "hear 2", "note 2"]
    assert out.replies == [user.D(2)]


def test_consumers_in_several_modules_are_called_in_the_order_of_their_names(load):
    program = load(
        m="from dataclasses import dataclass\nseen = []\n@dataclass\nclass M: n: int = 0",
        b="from .m import *\n@node\ndef one(m: M) -> None: seen.append('b')",
        a="from .m import *\n@node\ndef two(m: M) -> None: seen.append('a')",
        c="from .m import *\n@node\ndef start(a: A) -> Iterator[M | B]:\n    yield M()\n    yield B()\n"
        "ask = Endpoint('ask', A, B)",
    )
    user = module_of(program)

    run(program, "ask", user.A())

    assert user.seen == ["a", "b"]


REPLY_FROM_A_GENERATOR = """
@node
def start(a: A) -> Iterator[B | D]:
    try:
        yield B(1)
        yield D()
        seen.append("too far")
    finally:
        seen.append("closed")
@node
def hear(b: B) -> Iterator[C | B]:
    seen.append("heard")
    yield C()
    yield B(2)
    if b.n == 1: raise OSError("mine")
@node
def on(c: C) -> D: seen.append("never")
ask = Endpoint("ask", A, D, to=start)
"""


def test_a_reply_ends_the_request_and_what_was_emitted_before_it_is_still_handled(load, caplog):
    class Noting(Heard):
        def reply(self, message, *, last):
            super().reply(message, last=last)
            user_seen.append("reply")

    program = load(SEEN + REPLY_FROM_A_GENERATOR)
    user = module_of(program)
    user_seen = user.seen

    out = run(program, "ask", user.A(), out=Noting())

    assert user.seen == ["reply", "closed", "heard"]
    assert (out.replies, out.lasts) == ([user.D()], [False])
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("offloop.nodes", logging.ERROR)
    assert record.message == f"{user.__name__}.hear failed after the reply"
    assert "OSError: mine" in caplog.text


def test_a_plain_function_whose_reply_leaves_others_waiting_says_so(load):
    user, out = walked(
        load,
        """
        @node
        def start(a: A) -> Iterator[B]:
            yield B(1)
            yield B(2)
        @node
        def answer(b: B) -> C:
            seen.append(b.n)
            return C(b.n)
        ask = Endpoint("ask", A, C)
        """,
    )

    assert (out.replies, out.lasts) == ([user.C(1)], [False])
    assert user.seen == [1, 2]


def test_any_failure_after_the_reply_is_logged(load, caplog):
    user, out = walked(
        load,
        """
        @node
        def start(a: A) -> Iterator[B | C | D]:
            yield B()
            yield C()
            yield D()
        @node
        def leave(b: B) -> None: raise SystemExit
        @node
        def refuse(c: C) -> Iterator[None]:
            yield
            raise Problem("no")
        ask = Endpoint("ask", A, D)
        """,
    )

    assert out.replies == [user.D()]
    assert [record.message.rpartition(".")[2] for record in caplog.records] == [
        "leave failed after the reply",
        "refuse failed after the reply",
    ]


def test_a_generator_that_fails_while_it_is_closed_is_logged(load, caplog):
    user, out = walked(
        load,
        """
        @endpoint
        def ask(a: A) -> Iterator[B]:
            try:
                yield B()
            except GeneratorExit:
                yield B()
        """,
    )

    assert out.replies == [user.B()]
    assert [record.message.rpartition(".")[2] for record in caplog.records] == ["ask failed while it was closed"]


def test_stream_messages_come_as_they_are_emitted_and_reach_their_consumers_too(load):
    user, out = walked(
        load,
        """
        @node
        def start(a: A) -> Iterator[B | C]:
            yield B(1)
            yield B(2)
            yield C()
        @node
        def count(b: B) -> None: seen.append(b.n)
        ask = Endpoint("ask", A, C, stream=B)
        """,
    )

    assert out.chunks == [user.B(1), user.B(2)]
    assert out.replies == [user.C()]
    assert user.seen == [1, 2]


def test_nodes_of_other_endpoints_never_run_and_what_the_graph_has_no_use_for_is_passed_over(load):
    user, out = walked(
        load,
        """
        @node
        def start(a: A) -> Iterator[B | C]:
            yield B()
            yield C()
        @node
        def elsewhere(b: B) -> D: seen.append("never")
        @node
        def aside(d: D) -> None: seen.append("never")
        ask = Endpoint("ask", A, C)
        other = Endpoint("other", A, D)
        """,
    )

    assert out.replies == [user.C()]
    assert user.seen == []


def test_none_emits_nothing_where_it_is_declared(load):
    _, out = walked(load, "@endpoint\ndef ask(a: A) -> B | None: return None")

    assert out.replies == []


def test_work_that_runs_out_gives_no_reply(load):
    _, out = walked(
        load,
        """
        @node
        def start(a: A) -> Iterator[B | None]:
            yield None
            yield B()
        @node
        def go_on(b: B) -> C | None: return None
        ask = Endpoint("ask", A, C)
        """,
    )

    assert out.replies == []


def test_a_union_of_replies_may_be_answered_with_either(load):
    user, out = walked(load, "@endpoint\ndef ask(a: A) -> B | C: return C()")

    assert out.replies == [user.C()]


def test_a_union_of_requests_goes_to_whoever_consumes_each(load):
    program = load(
        """
        @node
        def one(a: A) -> C: return C(1)
        @node
        def two(b: B) -> C: return C(2)
        ask = Endpoint("ask", A | B, C)
        """
    )
    user = module_of(program)

    assert run(program, "ask", user.A()).replies == [user.C(1)]
    assert run(program, "ask", user.B()).replies == [user.C(2)]


# ---- replies of None


def test_the_end_of_a_function_that_returns_nothing_is_the_reply_none(load):
    user, out = walked(load, "@endpoint\ndef ask(a: A) -> None: seen.append(a.n)")

    assert (user.seen, out.replies, out.lasts) == ([1], [None], [True])


def test_the_end_of_the_node_that_takes_the_request_ends_it_and_its_emissions_are_handled(load):
    user, out = walked(
        load,
        """
        @node
        def start(a: A) -> B: return B(5)
        @node
        def note(b: B) -> None: seen.append(b.n)
        ask = Endpoint("ask", A, None, to=start)
        """,
    )

    assert (user.seen, out.replies, out.lasts) == ([5], [None], [False])


def test_the_exhaustion_of_a_generator_ends_it_and_a_none_it_yields_does_not(load):
    user, out = walked(
        load,
        """
        @endpoint(stream=B)
        def ask(a: A) -> Iterator[B | None]:
            yield None
            yield B(1)
            yield B(2)
        """,
    )

    assert out.chunks == [user.B(1), user.B(2)]
    assert (out.replies, out.lasts) == ([None], [True])


# ---- failures before the reply


@pytest.mark.parametrize(
    "error", ["OSError", "Problem", "SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError", "StopIteration"]
)
@pytest.mark.parametrize("emits", ["B", "Iterator[B]"])
def test_whatever_a_node_raises_before_the_reply_comes_out_as_it_is(load, error, emits):
    program = load(f"@endpoint\ndef ask(a: A) -> {emits}:\n    raise {error}('mine')")
    expected = {"Problem": Problem}.get(error) or getattr(__import__("builtins"), error)

    with pytest.raises(expected, match="mine"):
        run(program, "ask", module_of(program).A())


GENERATOR_RAISING = """
@endpoint
def ask(a: A) -> Iterator[B]:
    raise {}
    yield B()
"""


@pytest.mark.parametrize(("raised", "comes_out"), [("StopIteration", RuntimeError), ("GeneratorExit", GeneratorExit)])
def test_a_generator_that_misuses_its_own_signals_is_a_failure_and_no_end(load, raised, comes_out):
    program = load(GENERATOR_RAISING.format(raised))

    with pytest.raises(comes_out):
        run(program, "ask", module_of(program).A())


def test_the_first_failure_ends_the_request_and_closes_its_generator(load):
    class Full(Heard):
        def chunk(self, message):
            raise ValueError("too large")

    program = load(
        SEEN
        + """
@node
def start(a: A) -> Iterator[B | C]:
    try:
        yield B()
        yield C()
    finally:
        seen.append("closed")
ask = Endpoint("ask", A, C, stream=B)
"""
    )

    with pytest.raises(ValueError, match="too large"):
        run(program, "ask", module_of(program).A(), out=Full())
    assert module_of(program).seen == ["closed"]


def test_an_iterator_that_cannot_be_closed_is_left_alone(load):
    user, out = walked(load, "@endpoint\ndef ask(a: A) -> Iterator[B]: return map(B, range(3))")

    assert out.replies == [user.B(0)]


def test_a_function_that_declares_an_iterator_must_return_one(load):
    program = load("@endpoint\ndef ask(a: A) -> Iterator[B]: return 3")

    with pytest.raises(TypeError, match="not iterable"):
        run(program, "ask", module_of(program).A())


def test_an_emission_that_was_never_declared_is_a_failure_that_says_so(load):
    program = load("@endpoint\ndef ask(a: A) -> B | C: return D()")

    with pytest.raises(NodeFailed) as failed:
        run(program, "ask", module_of(program).A())

    assert ".ask (" in failed.value.debug
    assert "it emitted a D, but declares B, C" in failed.value.debug
    assert str(failed.value.__cause__) == failed.value.debug
    assert failed.value.detail == NodeFailed.explanation


def test_a_subclass_is_another_class_and_the_failure_says_so(load):
    program = load("class Sub(B): ...\n@endpoint\ndef ask(a: A) -> B: return Sub()")

    with pytest.raises(NodeFailed) as failed:
        run(program, "ask", module_of(program).A())

    assert "a subclass is another class" in failed.value.debug


def test_a_forgotten_return_is_a_failure(load):
    program = load("@endpoint\ndef ask(a: A) -> B: ...\n@endpoint\ndef tell(a: A) -> None: return 3")

    for name, says in (("ask", "emitted a NoneType, but declares B"), ("tell", "emitted a int, but declares None")):
        with pytest.raises(NodeFailed) as failed:
            run(program, name, module_of(program).A())
        assert says in failed.value.debug


CIRCLE = """
@node
def round_again(b: B) -> B | C:
    seen.append(b.n)
    return C(b.n) if b.n == {} else B(b.n + 1)
ask = Endpoint("ask", B, C)
"""


def test_a_thousand_hops_are_allowed_and_no_more(load):
    enough, too_many = (load(SEEN + CIRCLE.format(n)) for n in (1000, 1001))

    user = module_of(enough)
    assert run(enough, "ask", user.B(1)).replies == [user.C(1000)]
    with pytest.raises(NodeFailed) as failed:
        run(too_many, "ask", module_of(too_many).B(1))
    assert "more than 1000 hops" in failed.value.debug
    assert len(module_of(too_many).seen) == 1000


# ---- deadline and cancellation


GONE = [(Job.fake(cancelled=True), Cancelled), (Job.fake(remaining=0.0), DeadlineExceeded)]


@pytest.mark.parametrize(("job", "error"), GONE)
def test_no_node_begins_for_a_caller_who_has_gone(load, job, error):
    program = load(SEEN + "@endpoint\ndef ask(a: A) -> B: seen.append(a)")

    with pytest.raises(error):
        run(program, "ask", module_of(program).A(), job)
    assert module_of(program).seen == []


class Leaving(Job):
    """A caller who goes away when told to."""

    left = False

    @property
    def cancelled(self) -> bool:
        return self.left

    @classmethod
    def soon(cls) -> "Leaving":
        return cls.fake()


def test_the_second_node_does_not_begin_either(load):
    program = load(
        SEEN
        + """
@node
def start(a: A, job: Job) -> B:
    job.left = True
    return B()
@node
def go_on(b: B) -> C: seen.append(b)
ask = Endpoint("ask", A, C)
"""
    )

    with pytest.raises(Cancelled):
        run(program, "ask", module_of(program).A(), Leaving.soon())
    assert module_of(program).seen == []


def test_a_generator_is_closed_at_its_yield_when_the_caller_has_gone(load):
    program = load(
        SEEN
        + """
@endpoint(stream=B)
def ask(a: A, job: Job) -> Iterator[B | C]:
    try:
        yield B(1)
        job.left = True
        yield B(2)
        seen.append("too far")
    finally:
        seen.append("closed")
"""
    )
    out = Heard()

    # a reply is declared but never reached
    with pytest.raises(Cancelled):
        run(program, "ask", module_of(program).A(), Leaving.soon(), out)
    assert module_of(program).seen == ["closed"]
    assert out.chunks == [module_of(program).B(1), module_of(program).B(2)]


def test_after_the_reply_too_nothing_begins_for_a_caller_who_has_gone(load, caplog):
    program = load(
        SEEN
        + """
@node
def start(a: A) -> Iterator[B | C]:
    yield B(1)
    yield B(2)
    yield B(3)
    yield C()
@node
def hear(b: B, job: Job) -> Iterator[None]:
    seen.append(b.n)
    yield
    job.left = b.n == 2
    yield
    seen.append("too far")
ask = Endpoint("ask", A, C)
"""
    )

    out = run(program, "ask", module_of(program).A(), Leaving.soon())

    assert out.replies == [module_of(program).C()]
    assert module_of(program).seen == [1, "too far", 2]
    assert [record.message for record in caplog.records] == [
        "1 messages emitted before the reply were not handled: cancelled"
    ]

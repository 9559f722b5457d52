from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Annotated, Any

import pytest
from dishka import FromDishka

from offloop import Job
from offloop.graph.node import Mark, Node
from offloop.graph.signature import read
from tests.unit.graph.messages import A, B, C


def reading(function: Callable[..., Any]) -> tuple[Node | None, list[str]]:
    faults: list[str] = []
    return read(function, Mark(None), faults), faults


def node_of(function: Callable[..., Any]) -> Node:
    node, faults = reading(function)
    assert faults == []
    assert node is not None
    return node


def only_fault(function: Callable[..., Any]) -> str:
    _, faults = reading(function)
    (fault,) = faults
    assert f"{function.__qualname__} ({__file__}:" in fault
    return fault


def classes(kinds):
    return [kind.cls for kind in kinds]


def test_the_first_parameter_is_consumed_and_the_return_annotation_emitted():
    def work(a: A, job: Annotated[Job, "mine"], number: FromDishka[int]) -> B | C | None: ...

    node = node_of(work)

    assert node.name == f"{__name__}.work"
    assert (node.module, node.file, node.line) == (__name__, __file__, work.__code__.co_firstlineno)
    assert classes(node.consumes) == [A]
    assert classes(node.emits) == [B, C]
    assert (node.silent, node.iterates, node.sink) == (True, False, False)
    assert node.job == "job"
    assert [(name, key.type_hint) for name, key in node.services] == [("number", int)]


@pytest.mark.parametrize(
    "returns",
    [Iterator[B | C], Iterable[B | C], Generator[B | C, None, None], Generator[B | C], "Iterator[B | C]"],
)
def test_what_a_generator_yields_is_emitted(returns):
    def work(a: A): ...

    work.__annotations__["return"] = returns

    node = node_of(work)

    assert classes(node.emits) == [B, C]
    assert (node.iterates, node.silent) == (True, False)


def test_a_union_consumes_each_of_its_members():
    def work(message: A | B) -> None: ...

    node = node_of(work)

    assert classes(node.consumes) == [A, B]
    assert node.sink
    assert node.silent


def test_string_annotations_are_evaluated_where_they_are_written():
    def work(message: "A") -> "Iterator[B] ": ...

    assert classes(node_of(work).emits) == [B]


def test_async_functions_are_refused_with_a_reason():
    async def work(a: A) -> B: ...

    async def generate(a: A) -> Iterator[B]:
        yield B()

    assert "no async runner yet" in only_fault(work)
    assert "no async runner yet" in only_fault(generate)


def test_a_lambda_is_refused():
    assert "Write a `def`" in only_fault(lambda a: a)


def test_a_name_that_only_type_checkers_know_is_named_with_the_remedy():
    def work(a: "OnlyForCheckers") -> B: ...  # noqa: F821

    assert "names 'OnlyForCheckers', which does not exist at run time" in only_fault(work)


def test_an_annotation_that_cannot_be_evaluated_is_a_fault():
    def work(a: "A[") -> B: ...  # noqa: F722

    assert "its annotations cannot be evaluated" in only_fault(work)


def without_parameters() -> B: ...
def by_name_only(*, a: A) -> B: ...
def unannotated(a) -> B: ...
def job_first(job: Job, a: A) -> B: ...
def service_first(number: FromDishka[int]) -> B: ...
def perhaps(a: A | None) -> B: ...
def alike(a: list[A] | list[B]) -> C: ...
def no_return(a: A): ...
def starred(a: A, *more: B) -> C: ...
def keywords(a: A, **more: B) -> C: ...
def positional(a: A, job: Job, /) -> C: ...
def two_jobs(a: A, job: Job, again: Job) -> C: ...
def second(a: A, more) -> C: ...
def valued(a: A, limit: int = 3) -> C: ...
def endless(a: A) -> Iterator: ...
def returning(a: A) -> Generator[B, None, C]: ...


def yielding(a: A) -> B:
    yield B()


def alike_out(a: A) -> list[A] | list[B]: ...
def inner(a: A) -> Iterator[B] | None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (without_parameters, "it has no parameter"),
        (by_name_only, "first parameter 'a' cannot be given by position"),
        (unannotated, "first parameter 'a' has no annotation"),
        (service_first, "first parameter 'number' is a Job or a service"),
        (perhaps, "'a' may be None"),
        (alike, "cannot be told apart"),
        (no_return, "no return annotation"),
        (starred, "'more' cannot be given by name"),
        (keywords, "'more' cannot be given by name"),
        (positional, "'job' cannot be given by name"),
        (two_jobs, "'job' and 'again' are both the Job"),
        (second, "'more' has no annotation"),
        (valued, "nobody would give its parameter 'limit' a value. Annotate it FromDishka[int]"),
        (endless, "does not say what it emits"),
        (returning, "what a generator returns (C) is not emitted"),
        (yielding, "it yields. Annotate it Iterator[B]"),
        (alike_out, "it cannot emit list"),
        (inner, "is abstract"),
    ],
)
def test_a_signature_that_cannot_work_is_a_fault_with_a_remedy(function, says):
    assert says in only_fault(function)


def test_every_fault_of_one_function_is_told():
    _, faults = reading(job_first)

    assert len(faults) == 2

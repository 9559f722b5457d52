import sys

import pytest

from offloop import Endpoint
from offloop.errors import PreflightError, UsageError
from offloop.graph.program import Program
from tests.unit.graph.messages import A, B
from tests.unit.graph.programs import module_of, run

SOURCE = """
class TooMany(Problem): status = 422
@endpoint(http="POST /ask", problems=(TooMany,))
def ask(a: A) -> B: return B(a.n)
tell = Endpoint("tell", A, B, to=ask)
"""


def test_a_program_knows_its_endpoints_in_order(load):
    program = load(SOURCE)

    assert list(program.endpoints) == ["ask", "tell"]
    with pytest.raises(TypeError):
        program.endpoints["other"] = None


def test_an_endpoint_is_found_by_itself_or_by_its_function(load):
    program = load(SOURCE)
    user = module_of(program)

    assert program.find(user.ask) is program.endpoints["ask"]
    assert program.find(program.endpoints["ask"]) is program.endpoints["ask"]
    assert program.find(user.tell) is program.endpoints["tell"]


@pytest.mark.parametrize(
    ("what", "named"), [(Endpoint("alien", A, B), "alien"), (load_me := lambda: None, load_me.__qualname__), (3, "3")]
)
def test_what_is_no_endpoint_of_this_program_is_wrong_use(load, what, named):
    with pytest.raises(UsageError) as wrong:
        load(SOURCE).find(what)

    assert str(wrong.value).startswith(f"{named} is no endpoint of this program, which has: ask, tell.")


def test_a_program_without_endpoints_says_so(load):
    with pytest.raises(UsageError, match="which has: none"):
        load("").find(3)


def test_what_was_compiled_is_found_by_name(load):
    program = load(SOURCE)

    assert program.http("ask").path == "/ask"
    assert program.http("tell") is None
    assert program.codec("ask").encode_reply(module_of(program).B(3)).payload == b'{"n":3}'
    assert not program.route("ask").stream


def test_a_declared_problem_is_found_by_its_reason(load):
    program = load(SOURCE)

    assert program.problem("ask", "too-many") is module_of(program).TooMany
    assert program.problem("tell", "too-many") is None


def test_postponed_annotations_and_decorators_are_seen_through(write):
    source = """
    from __future__ import annotations
    import functools
    from collections.abc import Iterator
    from pydantic import BaseModel
    from offloop import endpoint

    def doubled(function):
        @functools.wraps(function)
        def around(message):
            return function(message.model_copy(update={"n": message.n * 2}))
        return around

    @doubled
    @endpoint
    def above(a: A) -> B: return B(n=a.n)

    @endpoint
    @doubled
    def below(a: A) -> Iterator[B]: yield B(n=a.n)

    class A(BaseModel): n: int
    class B(BaseModel): n: int
    """
    program = Program.load(write(source, prelude=""))
    user = module_of(program)

    assert program.find(user.above).name == "above"
    for name in ("above", "below"):
        assert run(program, name, user.A(n=2)).replies == [user.B(n=4)]


def test_several_packages_make_one_program(write):
    first = write("@dataclass\nclass M: n: int = 0\n@node\ndef start(a: A) -> M: ...")
    second = write(f"from {first} import A, M\n@node\ndef finish(m: M) -> B: ...\nask = Endpoint('ask', A, B)")

    with pytest.raises(PreflightError):
        Program.load(second)
    program = Program.load(first, second)

    assert list(program.endpoints) == ["ask"]
    assert [node.module for node in program.nodes] == [first, second]


def test_two_programs_of_one_package_share_its_functions_and_nothing_else(write):
    name = write(SOURCE)

    first, second = Program.load(name), Program.load(name)

    ask = sys.modules[name].ask
    assert first.find(ask) is not second.find(ask)
    with pytest.raises(UsageError):
        second.find(first.endpoints["ask"])

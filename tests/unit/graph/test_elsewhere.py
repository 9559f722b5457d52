"""A web process whose nodes run elsewhere: what is checked without them, and what is left to those who have them."""

import sys

import pytest

from offloop import Offloop, Settings
from offloop.errors import PreflightError
from offloop.graph.fingerprint import fingerprint
from offloop.graph.program import Program

ENDPOINTS = """
class Late(Problem): status = 422
ask = Endpoint("ask", A, B, to="some.where:work", stream=C, problems=(Late,), http="POST /ask", websocket="/ask")
tell = Endpoint("tell", A, None)
"""


def test_endpoints_alone_are_a_program_where_nodes_run_elsewhere(write):
    program = Program.load(write(ENDPOINTS), elsewhere=True)

    assert list(program.endpoints) == ["ask", "tell"]
    assert program.http("ask").path == "/ask"
    assert program.problem("ask", "late").status == 422
    assert program.codec("ask").decode_reply(program.codec("ask").encode_reply(module(program).B(3))).n == 3


def module(program: Program):
    return sys.modules[program.endpoints["ask"].module]


def test_everywhere_else_they_are_refused(write):
    with pytest.raises(PreflightError, match="some.where:work, is no node of this program"):
        Program.load(write(ENDPOINTS))


@pytest.mark.parametrize(("mode", "refused"), [("thread", True), ("process", True), ("cluster", False)])
def test_it_is_cluster_mode_in_which_nodes_are_elsewhere(write, mode, refused):
    settings = Settings(mode=mode, broker_url="redis://localhost:1/0")
    name = write(ENDPOINTS)
    if refused:
        with pytest.raises(PreflightError):
            Offloop(name, settings=settings)
    else:
        assert Offloop(name, settings=settings).program.packages == (name,)


FAULTY = {
    "a name taken twice": ("one = Endpoint('ask', A, B)\ntwo = Endpoint('ask', A, B)", "the name 'ask' is taken"),
    "a path taken twice": (
        "one = Endpoint('one', A, B, http='POST /a')\ntwo = Endpoint('two', A, B, http='POST /a')",
        "POST /a is taken",
    ),
    "a policy that is none": ("ask = Endpoint('ask', A, B, timeout=0)", "its timeout is 0"),
    "a type that cannot travel": ("class X: ...\nask = Endpoint('ask', A, X)", "cannot travel"),
    "a field that the path lacks": ("ask = Endpoint('ask', A, B, http='GET /a/{m}')", "m"),
    "a name of a node that is none": ("ask = Endpoint('ask', A, B, to='work')", "its `to`, work, is no name of a node"),
    "a node that cannot be read": ("@node\ndef work(a) -> B: ...\nask = Endpoint('ask', A, B)", "has no annotation"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_what_can_be_judged_without_nodes_is(write, what):
    source, said = FAULTY[what]
    with pytest.raises(PreflightError) as refused:
        Program.load(write(source), elsewhere=True)
    (fault,) = refused.value.faults
    assert said in fault


@pytest.mark.parametrize("to", ["work", "'some.where:work'", "None"])
def test_a_node_that_is_here_need_not_fit_the_rest(write, to):
    source = f"""
        @node
        def work(a: A, tool: FromDishka[D]) -> C: ...
        ask = Endpoint("ask", A, B, to={to})
    """
    assert Program.load(write(source), elsewhere=True).endpoints["ask"].name == "ask"


def test_both_halves_of_a_program_agree_on_the_fingerprint(write):
    messages = write()
    nodes = write(f"from {messages} import A, B\n@node\ndef work(a: A) -> B: ...")
    endpoints = write(f"from {messages} import A, B\nask = Endpoint('ask', A, B, to='{nodes}:work')")

    here, there = Program.load(endpoints, elsewhere=True), Program.load(endpoints, nodes)
    assert fingerprint(here.endpoints["ask"]) == fingerprint(there.endpoints["ask"])

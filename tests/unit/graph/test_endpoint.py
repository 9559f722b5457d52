import dataclasses

import pytest

from offloop import Blob, Endpoint, Problem, endpoint, node
from offloop.graph.discovery import discover
from offloop.graph.endpoint import policy_of
from tests.unit.graph.messages import A, B


class Refused(Problem): ...


def test_an_endpoint_is_frozen_and_says_where_it_is_written():
    ask = Endpoint("ask", A, B)

    assert (ask.module, ask.file) == (__name__, __file__)
    assert repr(ask).startswith("Endpoint('ask'")
    assert str(ask.site).startswith(f"endpoint 'ask' of {__name__} ({__file__}:")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask.timeout = 3


def test_the_defaults_are_the_contracts():
    ask = Endpoint("ask", A, B)

    assert (ask.timeout, ask.max_in_flight, ask.max_body, ask.status) == (15.0, 100, 2**20, 200)
    assert (ask.to, ask.stream, ask.problems, ask.media_types, ask.pool) == (None, None, (), None, None)
    assert (ask.idempotent, ask.on_disconnect, ask.http, ask.websocket) == (False, "cancel", None, None)


def test_sequences_are_frozen_and_anything_else_is_kept_for_preflight():
    assert Endpoint("ask", Blob, B, media_types=["a/b"], problems=[Refused]).media_types == ("a/b",)
    assert Endpoint("ask", Blob, B, media_types="a/b").media_types == "a/b"
    assert Endpoint("ask", Blob, B, problems=Refused).problems is Refused


def test_a_reply_of_none_is_answered_204_unless_another_status_is_given():
    assert Endpoint("ask", A, None).status == 204
    assert Endpoint("ask", A, None, status=202).status == 202


def test_an_endpoint_made_with_its_types_spelled_out_knows_its_line_too():
    assert Endpoint[A, B]("ask", A, B).file == __file__


def test_two_endpoints_are_never_equal():
    assert Endpoint("ask", A, B) != Endpoint("ask", A, B)


def test_a_policy_that_does_not_exist_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match="no policy named retries, to"):
        endpoint(retries=3, to=print)


def test_the_policy_is_kept_on_the_function_and_a_name_given_below_stays():
    @endpoint(timeout=2)
    @node(name="named")
    def work(a: A) -> B: ...

    assert policy_of(work) == {"timeout": 2}
    assert policy_of(test_two_endpoints_are_never_equal) is None


def made(write, source):
    (found,) = discover(write(source)).endpoints
    return found


def test_a_decorated_function_is_an_endpoint_of_its_name_to_itself(write):
    ask = made(
        write,
        '''
        @endpoint(timeout=2, http="POST /x")
        def rank(a: A, job: Job) -> B | None:
            """Rank the words.

            At most ten.
            """
        ''',
    )

    assert ask.name == "rank"
    assert ask.to is ask.function
    assert (ask.request.__name__, ask.reply.__name__) == ("A", "B")
    assert (ask.summary, ask.description, ask.timeout, ask.http) == ("Rank the words", "At most ten.", 2, "POST /x")


@pytest.mark.parametrize(
    ("signature", "policy", "reply"),
    [
        ("-> B | C | None", "", "B | C"),
        ("-> Iterator[C | B]", "stream=C", "B"),
        ("-> Iterator[C | B | D]", "stream=C | D", "B"),
        ("-> None", "", "None"),
        ("-> Iterator[C]", "stream=C", "None"),
        ("-> Annotated[B | C, 'told']", "", "Annotated[B | C, 'told']"),
        ("-> list[B]", "", "list[B]"),
    ],
)
def test_the_reply_is_what_it_returns_less_none_and_the_stream(write, signature, policy, reply):
    ask = made(write, f"@endpoint({policy})\ndef work(a: A) {signature}: ...\nexpected = {reply}")

    assert ask.reply == ask.function.__globals__["expected"]


def test_the_request_keeps_its_annotation(write):
    ask = made(write, "@endpoint\ndef work(a: Annotated[A | B, 'told']) -> C: ...\nexpected = Annotated[A | B, 'told']")

    assert ask.request == ask.function.__globals__["expected"]

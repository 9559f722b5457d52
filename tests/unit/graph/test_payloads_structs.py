"""Requests that are msgspec Structs: strict JSON, text where it is text, one error in FastAPI's shape."""

import datetime
import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop import errors
from offloop.graph.endpoint import Endpoint
from offloop.graph.payloads import codec_for
from offloop.messages import Envelope
from offloop.ports.codec import Codec


class Line(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    lines: list[Line] = []
    by_name: dict[str, Line] = {}
    by_number: dict[int, int] = {}
    due: datetime.date | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        if self.order_id < 0:
            raise ValueError("an id is not negative")


class Pair(msgspec.Struct, array_like=True):
    a: int
    b: int


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


def codec(request: Any = Order, **policy: Any) -> Codec:
    return codec_for(Endpoint("e", request, None, **policy))


def envelope(payload: bytes, form: Any = "json", fields: tuple[tuple[str, str, str], ...] = ()) -> Envelope:
    return Envelope(rid="r", endpoint="e", payload=payload, deadline=1.0, form=form, fields=fields)


def refused(of: Codec, given: Envelope) -> list[dict[str, Any]]:
    with pytest.raises(errors.InvalidPayload) as caught:
        of.decode_request(given)
    json.dumps(caught.value.errors, allow_nan=False).encode()
    return caught.value.errors


def test_a_json_body_becomes_the_struct() -> None:
    message = codec().decode_request(envelope(b'{"orderId":1,"lines":[{"text":"a"}],"due":"2024-02-29"}'))
    assert message == Order(1, [Line("a")], due=datetime.date(2024, 2, 29))
    assert codec(list[Line]).decode_request(envelope(b'[{"text":"a"}]')) == [Line("a")]
    assert codec(Pair).decode_request(envelope(b"[1,2]")) == Pair(1, 2)


@pytest.mark.parametrize(
    ("body", "kind", "loc", "msg", "shown"),
    [
        (b"{}", "missing", ["orderId"], "Field required", {}),
        (b'{"orderId":"1"}', "validation_error", ["orderId"], "Expected `int`, got `str`", "1"),
        (b"[1]", "validation_error", [], "Expected `object`, got `array`", [1]),
        (b'{"orderId":-1}', "validation_error", [], "an id is not negative", {"orderId": -1}),
        (b'{"orderId":1,"lines":[{"text":"a"},{}]}', "missing", ["lines", 1, "text"], "Field required", {}),
        (
            b'{"orderId":1,"lines":[{"text":"a","weight":-1}]}',
            "validation_error", ["lines", 0, "weight"], "Expected `float` >= 0.0", -1,
        ),
        (
            b'{"orderId":1,"lines":[{"text":"a","colour":2}]}',
            "extra_forbidden", ["lines", 0, "colour"], "Extra inputs are not permitted", 2,
        ),
        (
            b'{"orderId":1,"byName":{"k":{"text":1}}}',
            "validation_error", ["byName"], "Expected `str`, got `int`", {"k": {"text": 1}},
        ),
        (
            b'{"orderId":1,"byName":{"k":{"text":"a","x":1}}}',
            "extra_forbidden", ["byName", "x"], "Extra inputs are not permitted", None,
        ),
        (
            b'{"orderId":1,"byNumber":{"k":1}}',
            "validation_error", ["byNumber"], "Expected `int`, got `str`", {"k": 1},
        ),
        (b'{"orderId":1,"due":"x"}', "validation_error", ["due"], "Invalid RFC3339 encoded date", "x"),
        (b'{"z":"\xff","orderId":"1"}', "validation_error", ["orderId"], "Expected `int`, got `str`", None),
    ],
)  # fmt: skip
def test_msgspecs_error_is_told_in_the_shape_of_fastapi(
    body: bytes, kind: str, loc: list[str | int], msg: str, shown: Any
) -> None:
    (error,) = refused(codec(), envelope(body))
    assert error == {"type": kind, "loc": ["body", *loc], "msg": msg, "input": shown}


@pytest.mark.parametrize(
    ("body", "position", "reason"),
    [
        (b'{"orderId"', 10, "Expecting ':' delimiter"),
        (b'{"orderId":1}x', 13, "Extra data"),
        (b'{"orderId":NaN}', 11, "expected value"),
        (b'{"orderId":1,"anything":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 224, "recursion limit exceeded"),
        (b'{"orderId":1,"lines":[{"text":"\xff"}]}', 31, "Invalid UTF-8"),
    ],
)
def test_a_body_that_is_no_json_is_told_in_the_words_of_fastapi(body: bytes, position: int, reason: str) -> None:
    (error,) = refused(codec(), envelope(body))
    assert (error["type"], error["loc"], error["ctx"]) == ("json_invalid", ["body", position], {"error": reason})


def test_an_empty_body_is_missing() -> None:
    assert refused(codec(), envelope(b""))[0]["type"] == "missing"


def test_a_form_that_a_struct_has_no_use_for_is_refused() -> None:
    for form in ("raw", "multipart", "packed"):
        assert refused(codec(), envelope(b"{}", form))[0]["type"] == "form_invalid"


class Search(msgspec.Struct, rename={"word": "q"}):
    page: int
    word: str = ""
    tag: list[int] = []


def test_text_of_path_and_query_is_converted() -> None:
    fields = (("path", "page", "2"), ("query", "q", "w"), ("query", "tag", "3"), ("query", "tag", "4"))
    assert codec(Search, http="GET /{page}").decode_request(envelope(b"", "none", fields)) == Search(2, "w", [3, 4])


def test_errors_in_path_and_query_say_where_they_are() -> None:
    fields = (("query", "tag", "3"), ("query", "tag", "x"), ("path", "page", "y"))
    found = refused(codec(Search, http="GET /{page}"), envelope(b"", "none", fields))
    assert [(error["loc"], error["input"]) for error in found] == [(["path", "page"], "y"), (["query", "tag", 1], "x")]
    (error,) = refused(codec(Search, http="GET /x"), envelope(b"", "none", (("query", "q", "w"),)))
    assert (error["type"], error["loc"], error["input"]) == ("missing", ["query", "page"], None)


def test_the_path_is_merged_into_the_body() -> None:
    order = codec(http="PUT /{orderId}")
    fields = (("path", "orderId", "7"),)
    message = order.decode_request(envelope(b'{"orderId":1,"byNumber":{"1":2},"due":"2024-02-29"}', fields=fields))
    assert message == Order(7, by_number={1: 2}, due=datetime.date(2024, 2, 29))
    (error,) = refused(order, envelope(b'{"lines":[{}]}', fields=fields))
    assert (error["loc"], error["msg"]) == (["body", "lines", 0, "text"], "Field required")


@pytest.mark.parametrize(
    ("body", "kind"), [(b"", "missing"), (b"[1]", "model_attributes_type"), (b"{", "json_invalid")]
)
def test_a_body_that_nothing_can_be_merged_into_is_refused(body: bytes, kind: str) -> None:
    (error,) = refused(codec(http="PUT /{orderId}"), envelope(body, fields=(("path", "orderId", "1"),)))
    assert (error["type"], error["loc"][0]) == (kind, "body")


def test_a_wrong_path_is_told_beside_a_missing_body() -> None:
    found = refused(codec(http="PUT /{orderId}"), envelope(b"", fields=(("path", "orderId", "x"),)))
    assert [error["loc"] for error in found] == [["path", "orderId"], ["body"]]


def test_a_tagged_struct_needs_no_tag_in_a_query() -> None:
    assert codec(Cat, http="GET /x").decode_request(envelope(b"", "none", (("query", "lives", "7"),))) == Cat(7)


def test_a_struct_arrives_as_it_was_asked() -> None:
    for kind, message in ((Order, Order(1, [Line("a")])), (list[Line], [Line("b")]), (Pair, Pair(1, 2)), (Cat, Cat(1))):
        sent = codec(kind).encode_request(message)
        assert codec(kind).decode_request(envelope(sent.payload, sent.form)) == message


def test_a_message_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="the message is a Line, not Order"):
        codec().encode_request(Line("a"))


names = st.sampled_from(["orderId", "lines", "text", "byName", "byNumber", "due", "$.a[1]", "1"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)
hostile = st.binary() | documents.map(lambda value: json.dumps(value).encode())
CODECS = [codec(), codec(list[Line]), codec(Pair), codec(Search)]
fields = st.tuples(st.just("query"), st.sampled_from(["orderId", "lines", "due", "page", "tag", "unknown"]), st.text())


@given(st.sampled_from(CODECS), hostile, st.sampled_from(["json", "none"]), st.lists(fields).map(tuple))
def test_whatever_comes_is_a_message_or_an_invalid_payload(
    of: Codec, body: bytes, form: str, texts: tuple[tuple[str, str, str], ...]
) -> None:
    try:
        of.decode_request(envelope(body, form, texts))
    except errors.InvalidPayload as invalid:
        found = invalid.errors
    else:
        return
    assert found
    json.dumps(found, allow_nan=False).encode()

"""Lists of errors: plain JSON, bounded, the same on both sides of the wire."""

import datetime
import enum
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop.graph import payload_errors
from offloop.graph.payload_errors import MAX_TEXT, not_json, presentable
from offloop.graph.payloads import errors_from_json, errors_json
from offloop.messages import Blob


class Colour(enum.Enum):
    RED = 1


def error(shown: Any, **more: Any) -> dict[str, Any]:
    return {"type": "t", "loc": ("body", 0, "x"), "msg": "m", "input": shown, **more}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\xff\x00a", "�\x00a"),
        (float("inf"), None),
        (1.5, 1.5),
        (True, True),
        (None, None),
        (2**64, 2**64),
        pytest.param(10**5000, "…", id="more digits than Python writes"),
        ("\ud800", "?"),
        (Blob(b"abc", "a/b", "n"), {"filename": "n", "media_type": "a/b", "size": 3}),
        ({1: {2}, "a": (frozenset({3}), [4])}, {"1": [2], "a": [[3], [4]]}),
        (datetime.date(2024, 1, 1), "2024-01-01"),
        (ValueError("wrong"), "wrong"),
        (Colour.RED, "Colour.RED"),
    ],
)
def test_every_value_is_shown_as_plain_json(value: Any, shown: Any) -> None:
    (read,) = errors_from_json(errors_json([error(value, ctx={"error": value})]))
    assert read == error(shown, loc=["body", 0, "x"], ctx={"error": shown})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.builds(error, anything), max_size=3))
def test_whatever_a_list_holds_it_comes_over_the_wire_as_it_is_presented(errors: list[dict[str, Any]]) -> None:
    assert errors_from_json(errors_json(errors)) == presentable(errors)


@pytest.mark.parametrize(
    "errors",
    [
        [error("x" * 10_000_000)],
        [error({str(number): "x" * 1000 for number in range(10_000)})],
        [error([[["x"] * 100] * 100] * 100)],
        [error("x" * 10_000) for _ in range(1000)],
        [{**error(1), "loc": ("body", "x" * 1_000_000, number)} for number in range(1000)],
        [error([10**3000] * 10_000)],
        [{**error(None), "msg": "x" * 1_000_000}],
    ],
)
def test_a_list_repeats_a_bounded_part_of_a_payload(errors: list[dict[str, Any]]) -> None:
    wire = errors_json(errors)
    assert len(wire) < 3 * MAX_TEXT
    assert json.loads(wire)[0].keys() == {"type", "loc", "msg", "input"}


def test_after_the_bound_nothing_more_is_shown() -> None:
    (first,) = presentable([error(["x" * MAX_TEXT, 1, {"a": 1}, b"x", None]), error(2)])
    assert first["input"][0].endswith("…")
    (cut,) = presentable([{"input": "x" * MAX_TEXT * 2, "more": [1], "none": None, "number": 1, "ctx": {"limit": 1}}])
    assert (cut["none"], cut["number"]) == (None, "…")
    assert (cut["more"], cut["ctx"]) == ([], {})  # as the document says: a list is a list, whatever is in it


def test_json_that_every_parser_takes_has_no_fault_to_show() -> None:
    assert not_json(b"1")[0]["ctx"] == {"error": "Invalid JSON"}


def test_a_fault_is_found_on_its_own_line() -> None:
    payload = b'{"a": 1,\n  "b": NaN}'
    (fault,) = payload_errors.not_json(payload)
    assert payload[fault["loc"][1] :].startswith(b"NaN")

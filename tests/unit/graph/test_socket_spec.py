"""How endpoints meet a WebSocket; what preflight refuses of it is shown with the rest of preflight."""

from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from offloop.graph.endpoint import Endpoint
from offloop.graph.socket_spec import SocketSpec
from offloop.messages import Blob


class Ask(BaseModel):
    room: str = Field(alias="Room")
    n: int = 0


class Point(msgspec.Struct):
    x: int
    place: str


class Strict(BaseModel):
    n: Annotated[int, Field(strict=True)]


def spec(path: str, request: Any, **policy: Any) -> SocketSpec:
    return SocketSpec.of(Endpoint("ask", request, Ask, websocket=path, **policy))


def test_what_the_path_names_is_the_requests_and_the_rest_of_the_path_is_not():
    made = spec("/rooms/{Room}/{n}", Ask)

    assert (made.path, made.path_fields, made.raw, made.media_type) == ("/rooms/{Room}/{n}", ("Room", "n"), False, None)
    assert made.fields({"Room": "a b", "n": 7, "of_a_prefix": "x"}) == (("path", "Room", "a b"), ("path", "n", "7"))


def test_a_field_that_holds_slashes_and_one_of_a_struct():
    assert spec("/points/{place:path}", Point).path_fields == ("place",)


def test_without_fields_in_the_path_nothing_comes_from_it():
    assert spec("/ask", Ask).fields({"of_a_prefix": "x"}) == ()


@pytest.mark.parametrize(
    ("media_types", "media_type"),
    [(None, None), (("text/plain",), "text/plain"), (("image/*",), None), (("text/plain", "text/csv"), None)],
)
def test_bytes_have_the_media_type_that_the_endpoint_leaves_no_choice_of(media_types, media_type):
    made = spec("/bytes", Blob, media_types=media_types)

    assert (made.raw, made.media_type) == (True, media_type)


@pytest.mark.parametrize(
    ("path", "request_type", "why"),
    [
        ("/x y", Ask, "the path begins with '/'"),
        ("/{n}/{n}", Ask, "names a field twice"),
        ("/{n}", Strict, "is strict, and what a path holds is text"),
        ("/{room}", list[int], "has no fields"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(path, request_type, why):
    with pytest.raises(ValueError, match=why):
        spec(path, request_type)

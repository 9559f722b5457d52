"""Replies and stream messages: what a worker writes, what an HTTP caller sees and what `ask` gets back."""

import dataclasses
import datetime
import json
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PlainSerializer, RootModel, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from offloop.graph.endpoint import Endpoint
from offloop.graph.payloads import EndpointCodec, codec_for
from offloop.messages import Blob
from offloop.ports.codec import Codec, Encoded

Item = TypeVar("Item")


class Text(BaseModel):
    words: list[str]
    at: datetime.datetime | None = None


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next: int | None = None


@dataclasses.dataclass(frozen=True)
class Size:
    width: int
    height: int = 0


@pydantic_dataclass
class Checked:
    name: Annotated[str, Field(max_length=100)]


class Row(msgspec.Struct, rename="camel"):
    line_number: int
    note: str | None = None


class Options(TypedDict, total=False):
    depth: int


class Words(RootModel[list[str]]):
    pass


class Found(BaseModel):
    x: int


class Missed(BaseModel):
    x: int


def codec(reply: Any, stream: Any = None) -> Codec:
    return codec_for(Endpoint("e", Text, reply, stream=stream))


def returned(of: Codec, message: Any) -> Any:
    """What `ask` returns; an outcome carries no form."""
    sent = of.encode_reply(message)
    return of.decode_reply(Encoded(sent.payload, media_type=sent.media_type, filename=sent.filename))


texts = st.text(st.characters(codec="utf-8"), max_size=100)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Text, st.builds(Text, words=st.lists(texts), at=st.none() | st.datetimes())),
    (Page[Text], st.builds(Page[Text], items=st.lists(st.builds(Text, words=st.lists(texts))))),
    (Size, st.builds(Size, st.integers(), st.integers())),
    (Checked, st.builds(Checked, texts)),
    (Row, st.builds(Row, st.integers(-(2**63), 2**63), st.none() | texts)),
    (list[Row], st.lists(st.builds(Row, st.integers(0, 9)))),
    (dict[str, Row], st.dictionaries(texts, st.builds(Row, st.integers(0, 9)))),
    (Options, st.fixed_dictionaries({}, optional={"depth": st.integers()})),
    (Words, st.builds(Words, st.lists(texts))),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Annotated[int, Field(ge=0)], st.integers(0)),
    (tuple[int, str], st.tuples(st.integers(), texts)),
    (set[int], st.sets(st.integers())),
    (dict[str, list[Size]], st.dictionaries(texts, st.lists(st.builds(Size, st.integers())))),
    (str, texts),
    (bool, st.booleans()),
    (datetime.date, st.dates()),
]


@pytest.mark.parametrize(("reply", "messages"), KINDS)
def test_a_reply_of_every_kind_comes_back_as_it_was(reply: Any, messages: st.SearchStrategy[Any]) -> None:
    of = codec(reply)

    @settings(max_examples=30)
    @given(messages)
    def check(message: Any) -> None:
        sent = of.encode_reply(message)
        assert sent[1:] == ("json", None, None)
        json.loads(sent.payload)
        back = returned(of, message)
        assert back == message
        assert type(back) is type(message)

    check()


def test_a_reply_is_written_under_its_aliases_with_what_is_computed() -> None:
    class Area(BaseModel):
        side: int = Field(alias="Side")

        @computed_field
        def area(self) -> int:
            return self.side**2

    assert codec(Area).encode_reply(Area(Side=3)).payload == b'{"Side":3,"area":9}'


def test_not_a_number_is_written_as_null() -> None:
    assert codec(list[float]).encode_reply([float("nan"), 1.5]).payload == b"[null,1.5]"


def test_a_reply_of_none_is_no_bytes() -> None:
    assert codec(None).encode_reply(None) == Encoded(b"", "none")
    assert returned(codec(None), None) is None


def test_a_blob_is_written_as_its_bytes() -> None:
    of = codec(Blob)
    assert of.encode_reply(Blob(b"\x00")) == Encoded(b"\x00", "raw", "application/octet-stream", None)
    assert of.encode_reply(Blob(b"x", "a/b", "dir/c\n.pdf")) == Encoded(b"x", "raw", "a/b", "c.pdf")
    assert returned(of, Blob(b"x", "a/b", "c")) == Blob(b"x", "a/b", "c")


@pytest.mark.parametrize("media_type", ["", "pdf", "a/b\r\nSet-Cookie: x=1", "a/é"])
def test_a_media_type_that_no_header_may_carry_is_a_value_error(media_type: str) -> None:
    with pytest.raises(ValueError, match="media type is like"):
        codec(Blob).encode_reply(Blob(b"", media_type))


def test_classes_of_a_union_come_back_as_they_were_though_their_json_is_the_same() -> None:
    of = codec(Found | Missed | None)
    sent = of.encode_reply(Missed(x=1))
    assert sent == Encoded(b'{"x":1}', "json", "application/json;type=Missed")
    assert returned(of, Missed(x=1)) == Missed(x=1)
    assert returned(of, Found(x=1)) == Found(x=1)


def test_a_union_of_different_libraries_and_a_blob_comes_back_as_it_was() -> None:
    of = codec(Found | Row | Size | Blob | list[Text])
    for message in (Found(x=1), Row(2), Size(1), Blob(b"{}", "application/json"), [Text(words=[])]):
        assert returned(of, message) == message


def test_two_classes_of_one_name_are_told_apart() -> None:
    other = type("Found", (Found,), {"__module__": __name__})
    of = codec(Found | other)
    assert type(returned(of, other(x=1))) is other
    assert type(returned(of, Found(x=1))) is Found


def test_a_member_of_a_union_keeps_its_own_serializer() -> None:
    shouted = Annotated[str, PlainSerializer(str.upper)]
    assert codec(Found | shouted).encode_reply("a").payload == b'"A"'


def test_what_is_no_class_of_the_union_is_an_error() -> None:
    of = codec(Found | Missed)
    with pytest.raises(TypeError, match=r"Text is no class of the declared union"):
        of.encode_reply(Text(words=[]))
    with pytest.raises(ValueError, match="names no class of the declared union"):
        of.decode_reply(Encoded(b"{}", media_type="application/json;type=Other"))


def test_an_optional_class_is_no_union() -> None:
    assert codec(Found | None).encode_reply(Found(x=1)).media_type is None


class Tree(BaseModel):
    kids: list["Tree"] = []
    anything: Any = None


class Knot(msgspec.Struct):
    knot: Any = None


def test_what_cannot_be_written_is_a_value_error_or_a_type_error() -> None:
    knot, tree = Knot(), Tree()
    knot.knot, tree.kids = knot, [tree]
    for kind, message in (
        (Tree, Tree(anything=object())),
        (Tree, tree),
        (Tree, Tree(anything=b"\xff")),
        (Knot, knot),
        (Knot, Knot(object())),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            codec(kind).encode_reply(message)
        assert str(caught.value)


def test_bytes_that_are_no_reply_are_a_value_error() -> None:
    for kind in (Text, Row):
        with pytest.raises(ValueError, match=r"."):
            codec(kind).decode_reply(Encoded(b"{}"))


def test_a_stream_message_comes_back_as_it_was() -> None:
    of = codec(Text, stream=Found | Missed)
    assert isinstance(of, EndpointCodec)
    for message in (Found(x=1), Missed(x=1)):
        sent = of.encode_chunk(message)
        assert of.decode_chunk(Encoded(sent.payload, media_type=sent.media_type)) == message

"""How endpoints meet HTTP: what comes from where, which media types are taken, what is refused at preflight."""

import dataclasses
import datetime
import enum
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from offloop.graph.endpoint import Endpoint
from offloop.graph.http_spec import MAX_QUERY, HttpSpec
from offloop.messages import Blob


class Colour(enum.Enum):
    RED = "red"


class Search(BaseModel):
    id: int
    word: str | None = Field(None, description="what to look for", max_length=9)
    tags: list[Colour] | None = None
    kind: Literal["a", "b"] = "a"
    since: datetime.date = Field(default_factory=datetime.date.today)


class Order(BaseModel):
    id: int
    lines: list[dict[str, int]] = []


class Upload(BaseModel):
    key: str = ""
    scan: Blob | None = None
    pages: set[int] = set()


@dataclasses.dataclass
class Data:
    a: int
    b: Annotated[str, Field(alias="B")] = "b"
    c: list[int] = dataclasses.field(default_factory=list)
    d: int = dataclasses.field(default=0, init=False)


@pydantic_dataclass(config=ConfigDict(str_max_length=9))
class Checked:
    a: int
    b: str = "b"


class Struct(msgspec.Struct, rename="camel"):
    first_name: str
    numbers: tuple[int, ...] = ()
    more: list[int] = []


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    one: int = Field(alias="One")
    two: int = Field(validation_alias=AliasChoices("Two", AliasPath("deep", 0), "two"))


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)

    one: int = Field(alias="One")


class Keys(TypedDict):
    a: int


def spec(http: str, request: Any, **policy: Any) -> HttpSpec:
    return HttpSpec.of(Endpoint("e", request, None, http=http, **policy))


# ---- what comes from where


@pytest.mark.parametrize(
    ("http", "request_type", "path", "query", "body"),
    [
        ("GET /x", Search, (), ("id", "word", "tags", "kind", "since"), "none"),
        ("DELETE /x/{id}", Search, ("id",), ("word", "tags", "kind", "since"), "none"),
        ("POST /x", Search, (), (), "json"),
        ("PUT /x/{id}", Order, ("id",), (), "json"),
        ("PATCH /{kind}/{id}", Search, ("kind", "id"), (), "json"),
        ("POST /x", Blob, (), (), "raw"),
        ("POST /{key}", Upload, ("key",), ("pages",), "blob-field"),
        ("GET /x", Data, (), ("a", "B", "c"), "none"),
        ("GET /{b}", Data, ("b",), ("a", "c"), "none"),
        ("GET /{a}", Checked, ("a",), ("b",), "none"),
        ("GET /{firstName}", Struct, ("firstName",), ("numbers", "more"), "none"),
        ("GET /{first_name:path}", Struct, ("first_name",), ("numbers", "more"), "none"),
        ("GET /x", Aliased, (), ("One", "one", "Two", "two"), "none"),
        ("GET /{two}", Aliased, ("two",), ("One", "one"), "none"),
        ("GET /{one}", ByName, ("one",), (), "none"),
        ("POST /{a}/{b}", Checked, ("a", "b"), (), "none"),
        ("POST /x", int, (), (), "json"),
        ("POST /x", Keys, (), (), "json"),
        ("POST /x", RootModel[list[int]], (), (), "json"),
        ("POST /x", Order | Search, (), (), "json"),
        ("GET /", type("Empty", (BaseModel,), {}), (), (), "none"),
        ("POST /", type("Empty", (BaseModel,), {}), (), (), "json"),
    ],
)
def test_fields_come_from_the_path_the_query_or_the_body(
    http: str, request_type: Any, path: Sequence[str], query: Sequence[str], body: str
) -> None:
    made = spec(http, request_type)
    assert (made.path_fields, made.query_fields, made.body) == (path, query, body)
    assert f"{made.method} {made.path}" == http


def test_parameters_are_described_as_a_signature_needs_them() -> None:
    id, word, tags, kind, since = spec("GET /{id}", Search).parameters
    assert [(one.where, one.name) for one in (id, word)] == [("path", "id"), ("query", "word")]
    assert id.field.required
    assert not word.field.required
    assert word.field.info.description == "what to look for"
    assert "MaxLen" in str(word.field.annotation)
    assert tags.field.many
    assert not kind.field.many
    assert since.field.info.get_default(call_default_factory=True) == datetime.date.today()  # noqa: DTZ011
    name, numbers, more = spec("GET /x", Struct).parameters
    assert name.field.info.alias == "firstName"
    assert numbers.field.info.default == ()
    assert more.field.info.get_default(call_default_factory=True) == []


def test_values_of_path_and_query_are_picked_and_what_is_unknown_is_passed_over() -> None:
    made = spec("GET /x/{id}", Search)
    query = b"word=a+b%C3%A9%26&tags=red&%74ags=%ff&other=1&kind&kind=&=x&&id=9"
    assert made.fields({"id": "7", "more": "8"}, query) == (
        ("path", "id", "7"),
        ("query", "word", "a bé&"),
        ("query", "tags", "red"),
        ("query", "tags", "\ufffd"),
        ("query", "kind", ""),
        ("query", "kind", ""),
    )
    assert made.fields({"id": "7"}, b"") == (("path", "id", "7"),)


def test_a_body_that_is_everything_has_no_fields() -> None:
    assert spec("POST /x", Order).fields({}, b"id=1") == ()
    assert spec("PUT /x/{id}", Order).fields({"id": "1"}, b"id=2") == (("path", "id", "1"),)


def test_a_query_is_read_up_to_a_bound() -> None:
    assert len(spec("GET /x", Search).fields({}, b"tags=red&" * (MAX_QUERY + 1))) == MAX_QUERY


@given(st.binary())
def test_any_query_is_read(query: bytes) -> None:
    for where, name, value in spec("GET /x", Search).fields({}, query):
        assert where == "query"
        assert name in ("id", "word", "tags", "kind", "since")
        value.encode()


# ---- media types


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        (" application/json ;a", "json"),
        ("application/problem+json", "json"),
        ("text/json", None),
        ("application/json5", None),
        ("image/x+json", None),
        ("text/plain", None),
        ("application/x-www-form-urlencoded", None),
        ("", None),
        (None, None),
    ],
)
def test_json_is_taken_as_json_and_nothing_else(content_type: str | None, form: str | None) -> None:
    made = spec("POST /x", Order)
    assert made.form_of(content_type) == form
    assert made.media_types == ("application/json", "application/*+json")


def test_where_there_is_no_body_any_type_will_do() -> None:
    made = spec("GET /x", Search)
    assert made.media_types == ()
    assert {made.form_of(said) for said in (None, "text/plain")} == {"none"}


@pytest.mark.parametrize(
    ("media_types", "content_type", "form"),
    [
        (None, None, "raw"),
        (None, "multipart/form-data; boundary=B", "raw"),
        (("Application/PDF", "image/*"), "application/pdf; v=1", "raw"),
        (("Application/PDF", "image/*"), "IMAGE/png", "raw"),
        (("Application/PDF", "image/*"), "image", None),
        (("Application/PDF", "image/*"), "text/plain", None),
        (("Application/PDF", "image/*"), None, None),
        (("*/*",), "a/b", "raw"),
        (("*/*",), None, None),
    ],
)
def test_a_blob_is_taken_as_its_endpoint_says(media_types: Any, content_type: str | None, form: str | None) -> None:
    assert spec("POST /x", Blob, media_types=media_types).form_of(content_type) == form


def test_a_blob_field_is_taken_raw_or_as_a_form() -> None:
    made = spec("POST /x", Upload, media_types=["image/*"])
    assert made.form_of("Multipart/Form-Data; boundary=B") == "multipart"
    assert made.form_of("image/png") == "raw"
    assert made.form_of("application/json") is None
    assert spec("POST /x", Upload).form_of(None) == "raw"


# ---- what cannot work


class Deep(BaseModel):
    a: int = Field(validation_alias=AliasPath("deep", 0))


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    id: int
    name: str = ""
    lax: int = Field(default=0, strict=False)
    rest: int = 0


class TwoBlobs(BaseModel):
    a: Blob
    b: Blob


class NestedUpload(BaseModel):
    scan: Blob
    order: Order


@pytest.mark.parametrize(
    ("http", "request_type", "policy", "reason"),
    [
        ("/x", Order, {}, "is not 'METHOD /path'"),
        ("post /x", Order, {}, "GET, POST"),
        ("HEAD /x", Order, {}, "GET, POST"),
        (b"GET /x", Order, {}, "is not 'METHOD /path'"),
        ("POST x", Order, {}, "begins with '/'"),
        ("POST /x?y=1", Order, {}, "no query"),
        ("POST /a b", Order, {}, "percent-encoded"),
        ("POST /é", Order, {}, "percent-encoded"),
        ("POST /{id", Order, {}, "{name}"),
        ("POST /{id:int}", Order, {}, "{name:path}"),
        ("POST /{}", Order, {}, "{name}"),
        ("POST /{id}/{id}", Order, {}, "twice"),
        ("POST /{One}/{one}", Aliased, {}, "Keep one"),
        ("POST /{nope}", Order, {}, "has id, lines"),
        ("POST /{nope}", type("Empty", (BaseModel,), {}), {}, "has none"),
        ("POST /{id}", int, {}, "has no fields"),
        ("POST /{id}", Blob, {}, "has no fields"),
        ("POST /{id}", list[Order], {}, "has no fields"),
        ("POST /{scan}", Upload, {}, "comes in the body"),
        ("POST /{lines}", Order, {}, "no single value"),
        ("POST /{tags}", Search, {}, "no single value"),
        ("POST /{a}", Deep, {}, "none of that name"),
        ("GET /x", Deep, {}, "reaches into a structure"),
        ("PUT /{id}", Strict, {}, "Field(strict=False)"),
        ("GET /x", Blob, {}, "Use POST"),
        ("DELETE /x", Upload, {}, "Use POST"),
        ("GET /x", Order, {}, "Make it flat"),
        ("POST /x", NestedUpload, {}, "Make it flat"),
        ("GET /x", int, {}, "no fields"),
        ("GET /x", Keys, {}, "no fields"),
        ("GET /x", Order | Search, {}, "no fields"),
        ("POST /x", TwoBlobs, {}, "several Blobs (a, b)"),
        ("POST /x", Order, {"media_types": ("application/json",)}, "Leave them out"),
        ("GET /x", Search, {"media_types": ("a/b",)}, "Leave them out"),
        ("POST /x", Blob, {"media_types": ("pdf",)}, "not like 'application/pdf'"),
        ("POST /x", Blob, {"media_types": ("*/pdf",)}, "not like 'application/pdf'"),
        ("POST /x", Blob, {"media_types": ()}, "Leave it out"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(
    http: Any, request_type: Any, policy: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        spec(http, request_type, **policy)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "annotation",
    [dict[str, int], list[Order], list[list[int]], Order | int, Keys, Data, tuple[Order, ...]],
)
def test_only_text_comes_from_a_query(annotation: Any) -> None:
    class Nested(BaseModel):
        it: annotation

    with pytest.raises(ValueError, match="cannot come from a query"):
        spec("GET /x", Nested)


def test_a_struct_in_a_struct_does_not_come_from_a_query() -> None:
    with pytest.raises(ValueError, match="cannot come from a query"):
        spec("GET /x", type("Outer", (msgspec.Struct,), {"__annotations__": {"it": Struct}}))


@pytest.mark.parametrize(("annotation", "many"), [(list, True), (Any, False), (int | list[int], True)])
def test_what_says_nothing_of_its_structure_comes_from_a_query(annotation: Any, many: bool) -> None:
    class Plain(BaseModel):
        it: annotation

    assert spec("GET /x", Plain).parameters[0].field.many is many


@pytest.mark.parametrize("path", ["name", "lax"])
def test_text_and_lax_fields_of_a_strict_model_may_be_in_a_path(path: str) -> None:
    assert spec(f"PUT /{{{path}}}", Strict).path_fields == (path,)


def test_a_strict_model_may_come_from_a_query() -> None:
    assert spec("GET /{id}", Strict).body == "none"

"""Requests in every form: what a worker makes of a caller's bytes, in the words of a real FastAPI app."""

import dataclasses
import datetime
import enum
import json
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
from fastapi import Body, FastAPI, Form, Path, Query
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from offloop import errors
from offloop.graph.endpoint import Endpoint
from offloop.graph.payload_errors import MAX_ERRORS
from offloop.graph.payloads import codec_for
from offloop.messages import Blob, Envelope
from offloop.ports.codec import Codec


class Line(BaseModel):
    text: str = Field(min_length=1)
    weight: float = 1.0


class Order(BaseModel):
    id: int
    lines: list[Line] = []
    due: datetime.date | None = None
    tags: dict[str, int] = {}

    @field_validator("id")
    @classmethod
    def positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("an id is not negative")
        return value


class Search(BaseModel):
    page: Annotated[int, Field(ge=1)] = 1
    word: str
    tag: list[str] = []
    order: Literal["up", "down"] = "up"


class Upload(BaseModel):
    name: str
    scan: Blob
    pages: list[int] = []
    cover: Blob | None = None


class OneUpload(BaseModel):
    key: str = "k"
    scan: Blob
    pages: list[int] = []


def codec(request: Any, **policy: Any) -> Codec:
    return codec_for(Endpoint("e", request, None, **policy))


def envelope(
    payload: bytes, form: Any = "json", fields: tuple[tuple[str, str, str], ...] = (), **more: Any
) -> Envelope:
    return Envelope(rid="r", endpoint="e", payload=payload, deadline=1.0, form=form, fields=fields, **more)


def refused(of: Codec, given: Envelope) -> list[dict[str, Any]]:
    with pytest.raises(errors.InvalidPayload) as caught:
        of.decode_request(given)
    json.dumps(caught.value.errors, allow_nan=False).encode()
    return caught.value.errors


def faults(of: Codec, given: Envelope) -> list[dict[str, Any]]:
    """The errors, if there are any; nothing else is ever raised."""
    try:
        of.decode_request(given)
    except errors.InvalidPayload as invalid:
        found = invalid.errors
    else:
        return []
    json.dumps(found, allow_nan=False).encode()
    assert found
    return found


def shape(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: error[key] for key in ("type", "loc", "msg", "input")} for error in found]


# ---- what FastAPI says

app = FastAPI()


@app.post("/orders")
def _(body: Order) -> None: ...


@app.post("/lists")
def _(body: list[Order]) -> None: ...


@app.post("/numbers")
def _(body: Annotated[int, Body()]) -> None: ...


class Rest(BaseModel):
    lines: list[Line]
    due: datetime.date | None = None


class Put(Rest):
    id: Annotated[int, Field(ge=10)]


@app.put("/orders/{id}")
def _(id: Annotated[int, Path(ge=10)], body: Rest) -> None: ...


@app.get("/search/{page}")
def _(
    page: Annotated[int, Path(ge=1)],
    word: Annotated[str, Query()],
    order: Annotated[Literal["up", "down"], Query()] = "up",
    tag: Annotated[Sequence[int], Query()] = (),
) -> None: ...


class Found(BaseModel):
    page: Annotated[int, Field(ge=1)]
    word: str
    order: Literal["up", "down"] = "up"
    tag: list[int] = []


class Sent(BaseModel):
    scan: Blob | None = None
    title: str
    pages: list[int] = []


@app.post("/forms")
def _(title: Annotated[str, Form()], pages: Annotated[Sequence[int], Form()] = ()) -> None: ...


@pytest.fixture(scope="module")
def fastapi() -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def said(client: TestClient, method: str, path: str, **request: Any) -> list[dict[str, Any]]:
    response = client.request(method, path, **request)
    assert response.status_code == 422, response.text
    return shape(response.json()["detail"])


BAD_ORDERS = [
    b"",
    b" ",
    b"{",
    b'{"id":1',
    b'{"id":1}x',
    b"{'id':1}",
    b'{"id":}',
    b"[]",
    b"null",
    b'"text"',
    b"1",
    b"{}",
    b'{"id":"x"}',
    b'{"id":1.5}',
    b'{"id":-1}',
    b'{"id":[1]}',
    b'{"id":1,"lines":{}}',
    b'{"id":1,"lines":[1,null,{"text":""},{"weight":"w"}]}',
    b'{"id":1,"due":"never","tags":{"a":"b","c":null}}',
    b'{"id":1,"due":"\xc3\xa9","tags":[]}',
    b'{"a":"\xc3\xa9"} \n x',
]


@pytest.mark.parametrize("body", BAD_ORDERS)
def test_a_bad_body_is_refused_in_the_words_of_fastapi(fastapi: TestClient, body: bytes) -> None:
    ours = shape(refused(codec(Order), envelope(body)))
    assert ours == said(fastapi, "POST", "/orders", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"id":1},{"id":"x"},2]', b"[{]"])
def test_a_bad_list_is_refused_in_the_words_of_fastapi(fastapi: TestClient, body: bytes) -> None:
    ours = shape(refused(codec(list[Order]), envelope(body)))
    assert ours == said(fastapi, "POST", "/lists", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("body", [b"", b'"x"', b"1.5"])
def test_a_bad_number_is_refused_in_the_words_of_fastapi(fastapi: TestClient, body: bytes) -> None:
    ours = shape(refused(codec(int), envelope(body)))
    assert ours == said(fastapi, "POST", "/numbers", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("id", ["5", "12", "x"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b"{}", b'{"id":12}', b'{"lines":[1],"due":"x"}'])
def test_a_bad_path_and_body_are_refused_in_the_words_of_fastapi(fastapi: TestClient, id: str, body: bytes) -> None:
    ours = shape(refused(codec(Put, http="PUT /orders/{id}"), envelope(body, fields=(("path", "id", id),))))
    assert ours == said(fastapi, "PUT", f"/orders/{id}", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "query",
    [(), (("word", "w"), ("order", "left")), (("tag", "1"), ("tag", "x"), ("word", "")), (("tag", "x"), ("order", ""))],
)
@pytest.mark.parametrize("page", ["0", "x"])
def test_a_bad_query_is_refused_in_the_words_of_fastapi(
    fastapi: TestClient, page: str, query: tuple[tuple[str, str], ...]
) -> None:
    fields = (("path", "page", page), *(("query", *pair) for pair in query))
    ours = shape(refused(codec(Found, http="GET /search/{page}"), envelope(b"", "none", fields)))
    theirs = said(fastapi, "GET", f"/search/{page}", params=list(query))
    assert sorted(map(str, ours)) == sorted(map(str, theirs))
    assert ours[0]["loc"][0] == "path"


@pytest.mark.parametrize("texts", [[], [("title", "")], [("title", "t"), ("pages", "1"), ("pages", "x")]])
def test_a_bad_form_is_refused_in_the_words_of_fastapi(fastapi: TestClient, texts: list[tuple[str, str]]) -> None:
    parts = [(name, (None, text)) for name, text in (*texts, ("more", "x"))]
    sent = fastapi.build_request("POST", "/forms", files=parts)
    theirs = shape(fastapi.send(sent).json()["detail"])
    given = envelope(sent.read(), "multipart", media_type=sent.headers["content-type"])
    assert shape(refused(codec(Sent), given)) == theirs


# ---- bodies in JSON


def test_a_json_body_becomes_the_model() -> None:
    message = codec(Order).decode_request(envelope(b'{"id":1,"lines":[{"text":"a"}],"due":"2024-02-29"}'))
    assert message == Order(id=1, lines=[Line(text="a")], due=datetime.date(2024, 2, 29))


@pytest.mark.parametrize(
    ("body", "position", "reason"),
    [
        (b'{"id":1,\n"due":"\xff"}', 16, "Invalid UTF-8"),
        (b'{"id":' + b"9" * 5000 + b"}", 4307, "number out of range"),
        (b'\n\n{"lines":' + b"[" * 300 + b"]" * 300 + b"}", 211, "recursion limit exceeded"),
        (b"[" * 200_000, 201, "recursion limit exceeded"),
        (b'{"id":"\\ud800"}', 13, "unexpected end of hex escape"),
        (b'\xef\xbb\xbf{"id":1}', 0, "Unexpected UTF-8 BOM (decode using utf-8-sig)"),
    ],
)
def test_what_fastapi_has_no_422_for_is_a_fault_in_the_json(body: bytes, position: int, reason: str) -> None:
    (error,) = refused(codec(Order), envelope(body))
    assert error["loc"] == ["body", position]
    assert error == {
        "type": "json_invalid", "loc": ["body", position], "msg": "JSON decode error", "input": {},
        "ctx": {"error": reason},
    }  # fmt: skip


def test_not_a_number_is_no_integer_and_is_shown_as_null() -> None:
    (error,) = refused(codec(Order), envelope(b'{"id":NaN}'))
    assert (error["type"], error["input"]) == ("finite_number", None)


def test_a_huge_integer_is_no_other_error() -> None:
    (error,) = refused(codec(list[Line]), envelope(b"[" + b"9" * 4000 + b"]"))
    assert (error["type"], error["input"]) == ("model_attributes_type", "…")


def test_thousands_of_errors_are_one() -> None:
    count = MAX_ERRORS + 1
    (error,) = refused(codec(list[int]), envelope(json.dumps(["x"] * count).encode()))
    assert (error["type"], error["loc"], error["msg"]) == (
        "too_many_errors", ["body"], f"The payload has {count} errors",
    )  # fmt: skip


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    due: datetime.date
    size: int
    id: int = Field(default=1, strict=False)


def test_a_strict_model_takes_a_date_from_json_and_is_told_of_nothing_else() -> None:
    assert codec(Strict).decode_request(envelope(b'{"due":"2024-01-01","size":1}')).size == 1
    found = refused(codec(Strict), envelope(b'{"due":"2024-01-01","size":"1"}'))
    assert [(error["type"], error["loc"]) for error in found] == [("int_type", ["body", "size"])]


class Picky(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def not_from_json(cls, value: str, info: ValidationInfo) -> str:
        if info.mode == "json":
            raise ValueError("not from JSON")
        return value


def test_the_text_of_the_json_decides() -> None:
    (error,) = refused(codec(Picky), envelope(b'{"word":"a"}'))
    assert (error["loc"], error["ctx"]) == (["body", "word"], {"error": "not from JSON"})


class Encoded64(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")

    data: bytes


def test_bytes_are_read_as_their_model_says() -> None:
    (error,) = refused(codec(Encoded64), envelope(b'{"data":"!"}'))
    assert (error["type"], error["loc"], error["input"]) == ("bytes_invalid_encoding", ["body", "data"], "!")


def test_a_validators_own_exception_is_text() -> None:
    (error,) = refused(codec(Order), envelope(b'{"id":-1}'))
    assert error["ctx"] == {"error": "an id is not negative"}


def test_a_form_that_the_type_has_no_use_for_is_refused() -> None:
    for form in ("raw", "multipart"):
        (error,) = refused(codec(Order), envelope(b"", form))
        assert (error["type"], error["loc"]) == ("form_invalid", ["body"])
    for form in ("json", "multipart", "packed", "none"):
        (error,) = refused(codec(Blob), envelope(b"", form))
        assert error["type"] == "form_invalid"


# ---- path and query


def test_the_path_is_merged_into_the_body() -> None:
    order = codec(Put, http="PUT /orders/{id}")
    message = order.decode_request(envelope(b'{"lines":[],"id":11}', fields=(("path", "id", "12"),)))
    assert message == Put(id=12, lines=[])


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    owner: str = Field(alias="ownerId")
    rest: int = Field(default=0, validation_alias=AliasChoices("restId", "r"))


@pytest.mark.parametrize("name", ["owner", "ownerId"])
def test_a_body_cannot_give_a_field_of_the_path_a_value_by_another_name(name: str) -> None:
    aliased = codec(Aliased, http=f"PUT /{{{name}}}")
    body = b'{"owner":"mallory","ownerId":"mallory","r":2}'
    message = aliased.decode_request(envelope(body, fields=(("path", name, "alice"),)))
    assert (message.owner, message.rest) == ("alice", 2)


def test_an_alias_is_the_name_in_the_query_and_in_its_errors() -> None:
    aliased = codec(Aliased, http="GET /x")
    fields = (("query", "ownerId", "a"), ("query", "r", "3"), ("query", "r", "4"))
    assert aliased.decode_request(envelope(b"", "none", fields)) == Aliased(owner="a", rest=4)
    (error,) = refused(aliased, envelope(b"", "none", (("query", "r", "1"),)))
    assert (error["loc"], error["input"]) == (["query", "ownerId"], None)


def test_repeated_names_of_a_query_are_a_list_where_the_field_takes_one() -> None:
    fields = (("query", "word", "a"), ("query", "word", "b"), ("query", "tag", "c"), ("query", "tag", "d"))
    message = codec(Search, http="GET /x").decode_request(envelope(b"", "none", fields))
    assert message == Search(word="b", tag=["c", "d"])


def test_a_strict_model_takes_text_from_a_query() -> None:
    fields = (("query", "due", "2024-01-01"), ("query", "size", "3"))
    assert codec(Strict, http="GET /x").decode_request(envelope(b"", "none", fields)).size == 3


class Whole(BaseModel):
    low: int
    high: int = 10

    @model_validator(mode="after")
    def ordered(self) -> "Whole":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


@pytest.mark.parametrize(
    ("http", "fields", "loc"),
    [
        ("GET /x", (("query", "low", "11"),), ["query"]),
        ("GET /{low}", (("path", "low", "11"),), ["query"]),
        ("GET /{low}/{high}", (("path", "low", "2"), ("path", "high", "1")), ["path"]),
    ],
)
def test_an_error_of_the_whole_is_where_its_fields_come_from(
    http: str, fields: tuple[tuple[str, str, str], ...], loc: list[str]
) -> None:
    (error,) = refused(codec(Whole, http=http), envelope(b"", "none", fields))
    assert (error["loc"], error["input"]) == (loc, None)


def test_an_error_of_the_whole_beside_a_body_shows_the_body_alone() -> None:
    whole = codec(Whole, http="PUT /{low}")
    (error,) = refused(whole, envelope(b'{"high":1}', fields=(("path", "low", "2"),)))
    assert (error["loc"], error["input"]) == (["body"], {"high": 1})


def test_a_body_is_missing_even_if_all_its_fields_have_defaults() -> None:
    whole = codec(Whole, http="PUT /{low}")
    (error,) = refused(whole, envelope(b"", fields=(("path", "low", "2"),)))
    assert (error["type"], error["loc"]) == ("missing", ["body"])


# ---- Blobs


def test_a_blob_is_the_raw_body() -> None:
    given = envelope(b"\x00\xff", "raw", media_type="text/plain; charset=x", filename="../a\x00/b.txt")
    assert codec(Blob).decode_request(given) == Blob(b"\x00\xff", "text/plain; charset=x", "b.txt")


def test_a_raw_body_is_the_blob_field_and_the_query_gives_the_rest() -> None:
    upload = codec(OneUpload, http="POST /{key}")
    fields = (("path", "key", "a"), ("query", "pages", "1"), ("query", "pages", "2"))
    given = envelope(b"x", "raw", fields, media_type="a/b", filename="n")
    assert upload.decode_request(given) == OneUpload(key="a", scan=Blob(b"x", "a/b", "n"), pages=[1, 2])
    (error,) = refused(upload, envelope(b"x", "raw", (("query", "pages", "y"),)))
    assert error["loc"] == ["query", "pages", 0]


def test_a_raw_body_for_two_blobs_is_refused() -> None:
    assert refused(codec(Upload), envelope(b"", "raw"))[0]["type"] == "form_invalid"


# ---- multipart forms

HEAD = 'multipart/form-data; boundary="B"'


def form(*parts: tuple[str, bytes]) -> bytes:
    sent = b"".join(
        b"--B\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return sent + b"--B--\r\n"


def test_a_form_gives_each_field_its_part() -> None:
    body = form(
        ('name="name"', "é".encode()),
        ('name="scan"; filename="C:\\dir\\ü.pdf"\r\nContent-Type: application/pdf', b"\r\n--\x00"),
        ('name="pages"', b"1"),
        ('name="pages"', b"2"),
        ('name="cover"; filename=""\r\nContent-Type: application/octet-stream', b""),
        ('name="unknown"', b"x"),
    )
    message = codec(Upload).decode_request(envelope(body, "multipart", media_type=HEAD))
    assert message == Upload(name="é", scan=Blob(b"\r\n--\x00", "application/pdf", "ü.pdf"), pages=[1, 2])


def test_a_blobs_part_need_not_be_a_file() -> None:
    body = form(('name="scan"', b"\xff"), ('name="key"', b"k"))
    message = codec(OneUpload).decode_request(envelope(body, "multipart", media_type=HEAD))
    assert message == OneUpload(key="k", scan=Blob(b"\xff"))


def test_a_file_for_a_field_of_text_is_refused_and_its_bytes_are_not_repeated() -> None:
    body = form(('name="key"; filename="k.txt"', b"secret"), ('name="scan"', b"x"))
    (error,) = refused(codec(OneUpload), envelope(body, "multipart", media_type=HEAD))
    assert (error["type"], error["loc"]) == ("string_type", ["body", "key"])
    assert error["input"] == {"filename": "k.txt", "media_type": None, "size": 6}


def test_text_that_is_no_utf8_is_refused() -> None:
    (error,) = refused(codec(OneUpload), envelope(form(('name="key"', b"\xff")), "multipart", media_type=HEAD))
    assert (error["type"], error["loc"]) == ("string_unicode", ["body", "key"])


def test_a_part_cannot_give_a_field_of_the_path_another_value() -> None:
    upload = codec(OneUpload, http="POST /{key}")
    body = form(('name="key"', b"mallory"), ('name="scan"', b"x"))
    fields = (("path", "key", "alice"), ("query", "pages", "no number"))  # of a form, parts alone count
    assert upload.decode_request(envelope(body, "multipart", fields, media_type=HEAD)).key == "alice"


# ---- what `ask` sends


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5
    mark: Blob | None = None


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: datetime.datetime = Field(validation_alias="When", serialization_alias="Then")
    id: uuid.UUID
    price: Decimal
    colour: Colour
    pair: tuple[int, str]
    some: set[int]
    raw: bytes


texts = st.text(st.characters(codec="utf-8"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
blobs = st.builds(Blob, st.binary(), st.none() | texts, st.none() | texts)
everything = st.builds(
    lambda at, id, price, pair, some, raw: Everything.model_construct(
        at=at, id=id, price=price, colour=Colour.RED, pair=pair, some=some, raw=raw
    ),
    st.datetimes(),
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.tuples(st.integers(), texts),
    st.sets(st.integers()),
    texts.map(str.encode),
)


def asked(of: Codec, message: Any) -> Any:
    sent = of.encode_request(message)
    given = envelope(sent.payload, sent.form, media_type=sent.media_type, filename=sent.filename)
    return of.decode_request(given)


@given(everything)
def test_a_model_arrives_as_it_was_asked_whatever_its_aliases(message: Everything) -> None:
    assert asked(codec(Everything), message) == message


@given(st.builds(Upload, name=texts, scan=blobs, pages=st.lists(st.integers()), cover=st.none() | blobs))
def test_a_model_with_blobs_arrives_as_it_was_asked(message: Upload) -> None:
    assert asked(codec(Upload), message) == message


@given(st.builds(Point, st.integers(), numbers, st.none() | blobs))
def test_a_dataclass_arrives_as_it_was_asked(message: Point) -> None:
    assert asked(codec(Point), message) == message


@given(st.dictionaries(texts, st.lists(st.integers() | texts)))
def test_containers_of_builtins_arrive_as_they_were_asked(message: dict[str, list[int | str]]) -> None:
    assert asked(codec(dict[str, list[int | str]]), message) == message


def test_a_strict_model_with_a_blob_arrives_as_it_was_asked() -> None:
    class Dated(BaseModel):
        model_config = ConfigDict(strict=True)

        due: datetime.date
        scan: Blob

    message = Dated(due=datetime.date(2024, 1, 1), scan=Blob(b"x"))
    assert asked(codec(Dated), message) == message


def test_a_blob_arrives_as_it_was_asked() -> None:
    message = Blob(b"\x00", "a/b", "c")
    assert asked(codec(Blob), message) == message


def test_what_ask_sends_is_the_same_for_equal_messages() -> None:
    message = Upload(name="n", scan=Blob(b"x"), cover=Blob(b"y"))
    assert codec(Upload).encode_request(message) == codec(Upload).encode_request(message.model_copy())


@pytest.mark.parametrize(
    ("request_type", "message"),
    [(Order, {"id": 1}), (Order, Line(text="x")), (Blob, b"x"), (int, "1"), (list[int], ["x"]), (Upload, None)],
)
def test_a_message_of_another_type_is_a_type_error(request_type: Any, message: Any) -> None:
    with pytest.raises(TypeError, match="the message"):
        codec(request_type).encode_request(message)


def test_a_secret_is_not_sent_as_asterisks() -> None:
    class Login(BaseModel):
        password: SecretStr

    login = codec(Login)
    with pytest.raises(TypeError, match="field_serializer"):
        login.encode_request(Login(password=SecretStr("p")))
    assert asked(login, Login(password=SecretStr(""))).password.get_secret_value() == ""
    assert login.decode_request(envelope(b'{"password":"p"}')).password.get_secret_value() == "p"


def test_a_message_that_does_not_validate_where_it_arrives_is_an_invalid_payload() -> None:
    message = Order.model_construct(id=-1, lines=[], due=None, tags={})
    sent = codec(Order).encode_request(message)
    (error,) = refused(codec(Order), envelope(sent.payload, sent.form))
    assert (error["type"], error["loc"]) == ("value_error", ["body", "id"])
    upload = Upload.model_construct(name=1.5, scan=Blob(b""), pages=[], cover=None)
    packed = msgspec.msgpack.encode((b'{"name":1.5}', {"scan": Blob(b"")}))
    assert upload.name == 1.5
    (error,) = refused(codec(Upload), envelope(packed, "packed"))
    assert error["loc"] == ["body", "name"]


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode((b"{}", {"name": Blob(b"")})),
        msgspec.msgpack.encode((b"[]", {"scan": Blob(b"")})),
        msgspec.msgpack.encode((b"{", {"scan": Blob(b"")})),
        msgspec.msgpack.encode((b"{}", {"\ud800": 1}, 3).__class__((b"{}", 1))),
    ],
)
def test_what_is_not_as_ask_packs_it_is_refused(packed: bytes) -> None:
    (error,) = refused(codec(Upload), envelope(packed, "packed"))
    assert error["type"] == "form_invalid"


# ---- whatever comes

names = st.sampled_from(["id", "lines", "text", "due", "tags", "name", "scan", "pages"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)
hostile = st.binary() | documents.map(lambda value: json.dumps(value).encode())
forms = st.sampled_from(["json", "raw", "multipart", "packed", "none"])
values = st.tuples(st.just("query"), st.sampled_from(["id", "lines", "due", "tags", "name", "pages", "q"]), st.text())
CODECS = [codec(kind) for kind in (Order, Upload, OneUpload, Blob, Point, int, list[Order], dict[str, Search])]
IN_PATH = codec(Order, http="PUT /{id}")


@given(st.sampled_from(CODECS), forms, hostile, st.lists(values).map(tuple), st.none() | st.just(HEAD) | st.text())
def test_whatever_comes_is_a_message_or_an_invalid_payload(
    of: Codec, form: str, body: bytes, fields: tuple[tuple[str, str, str], ...], media_type: str | None
) -> None:
    found = faults(of, envelope(body, form, fields, media_type=media_type))
    assert all(error["loc"][0] in ("body", "path", "query") for error in found)


@given(hostile, st.text())
def test_whatever_comes_beside_a_path_is_a_message_or_an_invalid_payload(body: bytes, id: str) -> None:
    faults(IN_PATH, envelope(body, fields=(("path", "id", id),)))

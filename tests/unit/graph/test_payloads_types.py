"""Which types travel: every refusal names the place and the remedy."""

import dataclasses
import datetime
import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict

import msgspec
import pytest
from annotated_types import Ge
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, RootModel, SecretStr, WithJsonSchema
from typing_extensions import TypeAliasType
from typing_extensions import TypedDict as TypedDictForPydantic

from offloop.graph.payloads import travels
from offloop.messages import Blob


class Colour(enum.Enum):
    RED = 1


class Inner(BaseModel):
    colour: Colour = Colour.RED
    at: datetime.datetime
    id: uuid.UUID
    price: Decimal
    secret: SecretStr
    thumb: bytes
    image: Base64Bytes


class Model(BaseModel):
    inner: Inner
    more: list[dict[str, Inner]] = []
    parent: Optional["Model"] = None
    unshowable: Any = object()


@dataclasses.dataclass
class Data:
    inner: Inner
    kind: Literal["a", "b"] = "a"


class Keys(TypedDictForPydantic):
    inner: Inner


class OldKeys(TypedDict):
    a: int


class Struct(msgspec.Struct):
    a: Annotated[int, msgspec.Meta(ge=0)]
    data: bytes = b""
    next: Optional["Struct"] = None


class Upload(BaseModel):
    name: str
    scan: Blob
    cover: Blob | None = None


@dataclasses.dataclass
class UploadData:
    scan: Blob


class Foreign:
    pass


class Loose(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    foreign: Foreign


Name = NewType("Name", str)
Alias = TypeAliasType("Alias", list[Model])


@pytest.mark.parametrize(
    "annotation",
    [
        Model, Inner, Data, Keys, Struct, str, int, float, bool, datetime.date, uuid.UUID, Decimal, Colour, Name, Alias,
        list[Model], dict[str, Data], tuple[int, ...], set[str], Annotated[list[Model], Field(min_length=1)],
        Literal["a"], Model | Data, list[Struct], dict[str, Struct], RootModel[list[int]], list[Any],
    ],
)  # fmt: skip
def test_it_travels_both_ways(annotation: Any) -> None:
    assert travels(annotation) is None
    assert travels(annotation, reply=True) is None


@pytest.mark.parametrize("annotation", [Upload, UploadData, Blob])
def test_a_request_may_have_blobs_of_its_own(annotation: Any) -> None:
    assert travels(annotation) is None


@pytest.mark.parametrize("annotation", [Blob, None, Model | Struct, Model | Blob, Struct | list[Model]])
def test_it_travels_as_a_reply(annotation: Any) -> None:
    assert travels(annotation, reply=True) is None


class Nested(BaseModel):
    upload: Upload


class ManyBlobs(BaseModel):
    scans: list[Blob]


class StructWithBlob(msgspec.Struct):
    scan: Blob


class StructWithModel(msgspec.Struct):
    model: Model


class StructWithForeign(msgspec.Struct):
    foreign: Foreign


class Undefined(BaseModel):
    a: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class UndefinedStruct(msgspec.Struct):
    a: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "reason", "remedy"),
    [
        (None, "nothing in it", "without fields"),
        (bytes, "bytes has no form in JSON", "Make it a Blob"),
        (list[bytes], "bytes has no form in JSON", "Make it a Blob"),
        (list[Blob], "list[offloop.messages.Blob] has a Blob inside", "base64"),
        (Model | Blob, "Blob inside", "a request on its own"),
        (Nested, "Upload.scan has a Blob inside", "base64"),
        (ManyBlobs, "ManyBlobs.scans has a Blob inside", "base64"),
        (StructWithBlob, "msgspec Struct with a Blob", "pydantic model or a dataclass"),
        (StructWithModel, "mixes a msgspec Struct with the pydantic model Model", "Make both the same kind"),
        (dict[str, Struct | Model], "mixes", "Make both the same kind"),
        (StructWithForeign, "StructWithForeign cannot travel", "msgspec writes"),
        (list[Struct] | tuple[Struct, ...], "cannot travel", "msgspec writes"),
        (Annotated[list[Struct], Field(min_length=1)], "msgspec passes over", "msgspec.Meta"),
        (list[Annotated[Struct, Ge(1)]], "msgspec passes over", "msgspec.Meta"),
        (Foreign, "Foreign cannot travel", "pydantic models"),
        (Loose, "Loose cannot travel", "WithJsonSchema"),
        (list[Foreign], "cannot travel", "pydantic models"),
        (dict[str, Callable[[], int]], "cannot travel", "pydantic models"),
        (OldKeys, "typing_extensions.TypedDict", "pydantic models"),
        (Undefined, "Undefined", "not fully defined"),
        (UndefinedStruct, "not defined", "Define it"),
        (Any, "Any", "Name a class"),
        (object, "object", "Name a class"),
        (Mapping[str, int], "abstract", "Name the classes"),
        (Iterator[int], "abstract", "Name the classes"),
        (list[int] | list[str], "cannot be told apart", "class of its own"),
    ],
)
def test_it_does_not_travel_and_the_text_says_why_and_what_to_do(annotation: Any, reason: str, remedy: str) -> None:
    text = travels(annotation)
    assert text is not None
    assert reason in text
    assert remedy in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("annotation", "place"), [(Upload, "Upload.scan"), (list[Blob], "list["), (Nested, "Upload.scan")]
)
def test_a_reply_has_no_blob_inside(annotation: Any, place: str) -> None:
    text = travels(annotation, reply=True)
    assert text is not None
    assert text.startswith(place)
    assert "Reply with the Blob alone" in text


def test_a_type_of_ones_own_travels_with_a_schema() -> None:
    class Own(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        foreign: Annotated[Foreign, WithJsonSchema({"type": "string"})]

    assert travels(Own) is None

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NewType, Optional, Protocol, TypedDict, TypeVar

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from offloop.graph.kinds import Kind, kinds, name_of, telling, without

T = TypeVar("T")


class Page: ...


class Scan: ...


class Box(BaseModel, Generic[T]):
    it: T


@dataclass
class Pair(Generic[T]):
    it: T


class Record(TypedDict):
    a: int


class Readable(Protocol):
    def read(self) -> bytes: ...


@pytest.mark.parametrize(
    ("annotation", "classes"),
    [
        (Page, [Page]),
        (None, []),
        (Page | None, [Page]),
        (Optional[Page], [Page]),  # noqa: UP045
        (Page | Scan, [Page, Scan]),
        (Annotated[Page | Scan, "note"] | None, [Page, Scan]),
        (Annotated[int, "positive"], [int]),
        (list[Page], [list]),
        (list[Page] | dict[str, int], [list, dict]),
        (Page | TypeAliasType("Again", Page), [Page]),
        (Pair[int], [Pair]),
        (Box[int], [Box[int]]),
        (Box[int] | Box[str], [Box[int], Box[str]]),
        (Record, [dict]),
        (Literal["a", "b"], [str]),
        (NewType("Name", str), [str]),
        (TypeAliasType("Both", Page | Scan), [Page, Scan]),
    ],
)
def test_a_message_is_told_by_its_exact_class(annotation, classes):
    assert telling(annotation) == classes


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (list[Page] | list[Scan], "both are a list"),
        (Pair[int] | Pair[str], "both are a Pair"),
        (Record | dict[str, int], "both are a dict"),
        (Any, "Any is no class"),
        (object, "object is no class"),
        ("Page", "Page is no class"),
        (T, "~T is no class"),
        (Sequence[Page], "is abstract"),
        (Mapping, "Mapping is abstract"),
        (Readable, "Readable is abstract"),
        (Literal["a", 1], "several classes"),
    ],
)
def test_what_cannot_be_told_at_run_time_is_refused_with_a_reason(annotation, reason):
    assert reason in telling(annotation)


def test_kinds_of_one_class_differ_by_how_they_are_written():
    assert kinds(list[Page]) == kinds(Annotated[list[Page], "note"])
    assert kinds(list[Page]) != kinds(list[Scan])


def test_only_builtins_are_bare():
    assert kinds(list[Page])[0].bare
    assert kinds(str)[0].bare
    assert not kinds(Page)[0].bare


def test_a_reply_is_what_is_left_without_none_and_the_stream_type():
    page = kinds(Page)

    assert without(Page | Scan | None, page) is Scan
    assert without(Page | None, ()) is Page
    assert without(Page | Scan | str | None, page) == Scan | str
    assert without(Page, page) is None
    assert without(None, ()) is None


def test_an_annotation_that_loses_nothing_keeps_its_metadata():
    told = Annotated[Page | Scan, "discriminator"]

    assert without(told, ()) is told


def test_names_are_written_as_a_person_would():
    assert (name_of(Page), name_of(list[int])) == ("Page", "list[int]")
    assert str(Kind(Page, Page)) == "Page"

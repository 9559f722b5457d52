"""The program that these tests put stand-ins into."""

from collections.abc import Iterator

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import Blob, Endpoint, Problem, endpoint, node

ran: list[str] = []
"""The nodes that ran; emptied by the fixture `off`."""


class Text(BaseModel):
    text: str


class Count(BaseModel):
    words: int


class Page(BaseModel):
    number: int


class TooLong(Problem):
    status, title = 422, "The text is too long"


class Dictionary:
    def __init__(self, language: str = "English") -> None:
        self.language = language


class Services(Provider):
    scope = Scope.APP

    @provide
    def dictionary(self) -> Dictionary:
        return Dictionary()


@endpoint(http="POST /count", problems=(TooLong,), idempotent=True)
def count(text: Text) -> Count:
    ran.append("count")
    return Count(words=len(text.text.split()))


@endpoint
def language(text: Text, dictionary: FromDishka[Dictionary]) -> Text:
    return Text(text=dictionary.language)


@node
def pages(blob: Blob) -> Iterator[Page | Count]:
    ran.append("pages")
    yield Page(number=1)
    yield Count(words=0)


read = Endpoint("read", Blob, Count, stream=Page, to=pages, http="POST /read")


@endpoint
def either(text: Text) -> Count | Page:
    return Count(words=0)


@endpoint(http="POST /note")
def note(text: Text) -> None:
    ran.append("note")


@endpoint
def copy(blob: Blob) -> Blob:
    return blob

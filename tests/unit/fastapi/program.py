"""The program behind these tests: one endpoint for each way of meeting HTTP."""

import threading
from dataclasses import dataclass
from typing import Annotated

import msgspec
from pydantic import BaseModel, Field

from offloop import Blob, Endpoint, Problem, endpoint, node

OPEN = threading.Event()
"""What the blocking node waits for."""


class Text(BaseModel):
    """Some text."""

    text: str


class Count(BaseModel):
    words: int


class Person(BaseModel):
    id: int = Field(description="Which one")
    name: str
    friends: list["Person"] = []


class Search(BaseModel):
    shelf: str
    words: list[str]
    limit: Annotated[int, Field(ge=1, le=100, description="At most so many")] = 10


class Letter(BaseModel):
    to: str
    stamp: int = 1
    page: Blob


class Wait(BaseModel):
    seconds: float = 30


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Size:
    bytes: int


class TooShort(Problem):
    """Nothing to count."""

    status, title = 422, "The text is too short"


class Tired(Problem):
    status, title = 429, "Enough for today"

    def __init__(self, hours: int) -> None:
        super().__init__(hours=hours)


@endpoint(http="POST /texts", problems=(TooShort, Tired), idempotent=True, status=201)
def count(text: Text) -> Count:
    """Count the words.

    All of them, *every* time.
    """
    if not text.text:
        raise TooShort(minimum=1)
    return Count(words=len(text.text.split()))


@endpoint(http="PUT /people/{id}")
def save(person: Person) -> None: ...


@endpoint(http="GET /shelves/{shelf}/books")
def search(query: Search) -> list[str]:
    return [query.shelf, *query.words, str(query.limit)]


@endpoint(http="POST /letters", media_types=("application/pdf",))
def post(letter: Letter) -> Size:
    return Size(len(letter.page.data))


@endpoint(http="POST /points")
def mirror(point: Point) -> Point | None:
    return Point(point.y, point.x)


@endpoint(http="POST /waits", timeout=60, max_in_flight=1)
def wait(message: Wait) -> Count:
    OPEN.wait(message.seconds)
    return Count(words=0)


@endpoint(http="POST /brief", timeout=0.2, max_body=4 * 2**20)
def brief(message: Blob) -> Blob:
    return Blob(message.data, message.media_type, message.filename)


@node
def either(blob: Blob) -> Size | Count:
    return Size(len(blob.data)) if blob.data else Count(words=0)


union = Endpoint("union", Blob, Size | Count, to=either, http="POST /union")
quiet = Endpoint("quiet", Blob, Size | Count, to=either)

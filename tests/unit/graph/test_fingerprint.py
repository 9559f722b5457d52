"""What two processes have to agree on before one works for the other."""

from typing import Any

import msgspec
from pydantic import BaseModel

from offloop import Blob, Endpoint
from offloop.graph.fingerprint import fingerprint


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


class Packed(msgspec.Struct):
    number: int


def of(name: str = "ask", request: Any = Question, reply: Any = Answer, **policy: Any) -> str:
    return fingerprint(Endpoint(name, request, reply, **policy))


def test_it_is_the_same_wherever_the_messages_are() -> None:
    class Question(BaseModel):
        text: str

    assert of() == of(request=Question, timeout=1.0, idempotent=True)
    assert len(of()) == 16


def test_a_field_a_type_a_name_or_a_size_makes_it_another() -> None:
    class Longer(BaseModel):
        text: str
        more: int = 0

    every = [
        of(),
        of("other"),
        of(request=Longer),
        of(reply=Longer),
        of(stream=Longer),
        of(reply=None),
        of(request=Blob),
        of(request=Packed),
        of(reply=Answer | Longer),
        of(max_body=2**21),
    ]
    assert len(set(every)) == len(every)


def test_what_msgspec_writes_has_one_too() -> None:
    assert of(request=Packed, reply=list[Packed]) == of(request=Packed, reply=list[Packed])

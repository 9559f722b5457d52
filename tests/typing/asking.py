"""What a type checker knows of `ask` and `stream`: a user's program, checked by `mypy --strict` and never run.

Where a call must be refused, `type: ignore` says so; mypy reports one that is not needed.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from dishka import FromDishka
from pydantic import BaseModel

from offloop import Blob, Endpoint, Job, Offloop, endpoint, node
from offloop.ingress.asking import Messages, Progress


class Text(BaseModel):
    text: str


class Words(BaseModel):
    words: int


@dataclass
class Scan:
    dots: int


class Counter: ...


# ---- decorated functions


@endpoint
def count(text: Text) -> Words:
    return Words(words=len(text.text))


@endpoint(timeout=2, http="POST /counts")
def count_with(text: Text, job: Job, *, counter: FromDishka[Counter]) -> Words:
    return Words(words=int(job.remaining))


@endpoint(on_disconnect="finish")
def perhaps(text: Text) -> Words | None:
    return None


@endpoint
def forget(text: Text) -> None:
    return None


@endpoint
def found(text: Text) -> Iterator[Words]:
    yield Words(words=1)


@endpoint
def found_or_not(text: Text) -> Generator[Words | None, None, None]:
    yield None


@endpoint
def every(texts: list[Text]) -> list[Words]:
    return [count(text) for text in texts]


async def ask_functions(off: Offloop, text: Text) -> None:
    assert_type(await off.ask(count, text), Words)
    assert_type(await off.ask(count_with, text, timeout=1.0, request_id="label"), Words)
    assert_type(await off.ask(perhaps, text), Words)
    assert_type(await off.ask(found, text), Words)
    assert_type(await off.ask(found_or_not, text), Words)
    assert_type(await off.ask(every, [text]), list[Words])
    await off.ask(forget, text)

    await off.ask(count, Scan(dots=1))  # type: ignore[arg-type]
    assert_type(count(text), Words)


# ---- endpoints


@node(name="scanner")
def scan(blob: Blob) -> Scan:
    return Scan(dots=len(blob.data))


plain = Endpoint("plain", Blob, Scan, to=scan, timeout=2, media_types=("image/png",), http="POST /scans")
silent = Endpoint("silent", Text, None, to="words.nodes:forget")
many = Endpoint("many", Text, list[Words])
spelled_out = Endpoint[Text, Words]("spelled_out", Text, Words)
either: Endpoint[Text, Words | Scan] = Endpoint("either", Text, Words | Scan)
any_of: Endpoint[Text | Blob, Words] = Endpoint("any_of", Text | Blob, Words, stream=Scan)

assert_type(plain, Endpoint[Blob, Scan])
assert_type(silent, Endpoint[Text, None])
assert_type(many, Endpoint[Text, list[Words]])

unknown = Endpoint("unknown", Text, Words | Scan)  # type: ignore[var-annotated]
misspelt = Endpoint("misspelt", Text, Words, timeot=2)  # type: ignore[call-overload]
mistaken = Endpoint("mistaken", Text, Words, timeout="2s")  # type: ignore[call-overload]


async def ask_endpoints(off: Offloop, text: Text) -> None:
    assert_type(await off.ask(plain, Blob(b"")), Scan)
    assert_type(await off.ask(many, text), list[Words])
    assert_type(await off.ask(spelled_out, text), Words)
    assert_type(await off.ask(either, text), Words | Scan)
    assert_type(await off.ask(any_of, Blob(b"")), Words)
    await off.ask(silent, text)

    await off.ask(plain, text)  # type: ignore[misc]


def ask_from_a_thread(off: Offloop, text: Text) -> None:
    assert_type(off.ask_sync(count, text), Words)
    assert_type(off.ask_sync(perhaps, text), Words)
    assert_type(off.ask_sync(found, text), Words)
    assert_type(off.ask_sync(plain, Blob(b"")), Scan)
    assert_type(off.ask_sync(either, text), Words | Scan)
    off.ask_sync(forget, text)


async def stream(off: Offloop, text: Text) -> None:
    async with off.stream(any_of, Blob(b"")) as messages:
        async for _ in messages:
            assert_type(messages.progress, Progress | None)
        assert_type(messages.reply, Words)
    async with off.stream(plain, Blob(b""), timeout=1.0, request_id="label") as scanned:
        assert_type(scanned, Messages[Scan])
    async with off.stream(count, text) as counted:
        assert_type(counted, Messages[Any])

    off.stream(plain, text)  # type: ignore[misc]
    off.stream(count, Scan(dots=1))  # type: ignore[arg-type]
    async with off.stream(plain, Blob(b""), timeot=2):  # type: ignore[call-overload]
        pass

"""What a type checker knows of a program; mypy strict runs over this file, nothing else does."""

from typing import assert_type

from pydantic import BaseModel

from offloop import Blob, Endpoint, Settings, endpoint, node


class Text(BaseModel):
    text: str


class Size(BaseModel):
    size: int


@endpoint(http="POST /sizes", timeout=2)
def size_of(text: Text) -> Size:
    return Size(size=len(text.text))


@endpoint
def forget(text: Text) -> None:
    """Ends with 204."""


@node
def read(blob: Blob) -> Text:
    return Text(text=blob.data.decode())


def functions_stay_what_they_are() -> None:
    assert_type(size_of(Text(text="x")), Size)
    assert_type(read(Blob(b"x")), Text)


def endpoints_know_their_types() -> None:
    assert_type(Endpoint("sizes", Blob, Size, to=read), Endpoint[Blob, Size])
    assert_type(Endpoint("forget", Text, None, to=forget), Endpoint[Text, None])


def settings_are_checked_by_name_and_type() -> None:
    Settings(queue_limit=5, drain_timeout=1.5, ws_origins=("https://example.org",))
    Settings(queue_limits=5)  # type: ignore[call-arg]
    Settings(queue_limit="many")  # type: ignore[arg-type]

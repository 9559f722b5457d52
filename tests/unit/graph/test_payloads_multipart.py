"""Multipart forms as they come: parts, bounds, names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop import errors
from offloop.graph.multipart import MAX_FILENAME, MAX_PARTS, Part, parts_of, safe_filename, safe_media_type

HEAD = "multipart/form-data; boundary=B"


def part(head: str, data: bytes = b"x") -> bytes:
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def named(name: str, data: bytes = b"x") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', data)


END = b"--B--\r\n"


def fault(content_type: str | None, body: bytes) -> str:
    with pytest.raises(errors.InvalidPayload) as caught:
        parts_of(content_type, body)
    (error,) = caught.value.errors
    assert (error["type"], error["loc"], error["msg"]) == ("multipart_invalid", ["body"], "Multipart decode error")
    reason: Any = error["ctx"]["error"]
    assert isinstance(reason, str)
    return reason


def test_parts_come_in_their_order_with_what_they_say_of_themselves() -> None:
    body = (
        b"\r\n" * 0
        + named("a", b"1")
        + part('content-disposition: form-data; name="f"; filename="n.pdf"\r\nCONTENT-TYPE: a/b; c=d', b"\x00\r\n")
        + named("a", b"")
        + END
        + b"whatever follows"
    )
    assert parts_of(HEAD, body) == [
        Part("a", b"1", None, None), Part("f", b"\x00\r\n", "a/b; c=d", "n.pdf"), Part("a", b"", None, None),
    ]  # fmt: skip


def test_a_form_may_have_no_parts() -> None:
    assert parts_of(HEAD, END) == []


@pytest.mark.parametrize(
    "content_type", [None, "", "multipart/form-data", "multipart/form-data; boundary=", "a/b; é=B"]
)
def test_a_form_without_a_boundary_is_refused(content_type: str | None) -> None:
    assert fault(content_type, END) == "The Content-Type has no boundary"


@pytest.mark.parametrize("body", [b"", named("a"), named("a")[:-4], (named("a") + END)[:-4], b"--B\r\nContent-Dispos"])
def test_a_form_that_ends_early_is_refused(body: bytes) -> None:
    assert fault(HEAD, body) == "The form ends before its last boundary"


@pytest.mark.parametrize("body", [b"x" + END, part("\x00: y") + END, part(": y") + END, b"--B\rx"])
def test_a_malformed_form_is_refused(body: bytes) -> None:
    assert fault(HEAD, body)


def test_a_boundary_longer_than_any_is_refused() -> None:
    assert fault("multipart/form-data; boundary=" + "B" * 1000, END)


@pytest.mark.parametrize("head", ["X: y", "Content-Disposition: form-data", 'Content-Disposition: form-data; n="a"'])
def test_a_part_without_a_name_is_refused(head: str) -> None:
    assert fault(HEAD, part(head) + END) == "A part has no name"


def test_as_many_parts_as_may_be_are_read_and_one_more_is_refused() -> None:
    assert len(parts_of(HEAD, named("a") * MAX_PARTS + END)) == MAX_PARTS
    assert "more than 1000 parts" in fault(HEAD, named("a") * (MAX_PARTS + 1) + END)


def test_the_headers_of_a_part_are_bounded() -> None:
    many = "\r\n".join(f"X-{number}: {'y' * 3000}" for number in range(3))
    assert "longer than 8192 bytes" in fault(HEAD, part(many) + END)
    assert fault(HEAD, part("X: " + "y" * 100_000) + END)
    assert fault(HEAD, part("X" * 100_000 + ": y") + END)


def test_a_media_type_that_no_header_may_carry_is_none() -> None:
    for said in ("pdf", "a/b\nSet-Cookie: x", "a/é"):
        (read,) = parts_of(HEAD, part(f'Content-Disposition: form-data; name="a"\r\nContent-Type: {said}') + END)
        assert read.media_type is None
    assert safe_media_type(None) is None


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        (None, None), ("", None), (".", None), ("..", None), ("a/..", None), ("/", None), ("\x00\n", None),
        ("a.pdf", "a.pdf"), ("../../etc/passwd", "passwd"), ("C:\\dir\\b.txt", "b.txt"), ("a\\/b", "b"),
        ("\u202ea\r\nb", "ab"), (" ü ö ", "ü ö"), ("x" * 1000, "x" * MAX_FILENAME),
    ],
)  # fmt: skip
def test_a_file_name_is_a_name_alone(name: str | None, safe: str | None) -> None:
    assert safe_filename(name) == safe


@given(st.text())
def test_no_file_name_leads_anywhere(name: str) -> None:
    safe = safe_filename(name)
    assert safe is None or (safe.isprintable() and "/" not in safe and "\\" not in safe and safe not in ("", ".", ".."))


pieces = st.sampled_from(
    [
        b"--B",
        b"\r\n",
        b"--",
        b"\r",
        b"\n",
        b"Content-Disposition: form-data; name=a",
        b"; filename=",
        b'"',
        b": ",
        b"\xff",
    ]
)


@given(st.lists(pieces | st.binary(max_size=5)).map(b"".join))
def test_whatever_comes_is_parts_or_an_invalid_payload(body: bytes) -> None:
    for sent in (body, b"--B\r\n" + body + b"\r\n--B--"):
        try:
            found = parts_of(HEAD, sent)
        except errors.InvalidPayload:
            continue
        assert all(isinstance(read.data, bytes) for read in found)

import pytest

from offloop import errors
from offloop.fastapi.headers import (
    disposition_header,
    filename_of,
    media_type_header,
    request_label,
    request_timeout,
)


@pytest.mark.parametrize("said", [b"a", b"req-1/\x22~", b"x" * 128])
def test_a_sane_request_id_is_taken(said):
    assert request_label(said) == said


@pytest.mark.parametrize("said", [None, b"", b"x" * 129, b"two words", b"a\r\nSet-Cookie: b", b"\x7f", b"caf\xc3\xa9"])
def test_any_other_request_id_is_replaced_by_a_new_one(said):
    first, second = request_label(said), request_label(said)
    assert first != said
    assert first != second
    assert len(first) == 32


@pytest.mark.parametrize(
    ("said", "seconds"), [(b"2", 2.0), (b"0.25", 0.25), (b"000001", 1.0), (b"999999999", 999999999.0)]
)
def test_a_timeout_is_a_number_of_seconds(said, seconds):
    assert request_timeout(said) == seconds


@pytest.mark.parametrize(
    "said",
    [b"", b"0", b"0.0", b"-1", b"nan", b"inf", b"1e999", b"1_0", b"+1", b".5", b" 1", b"5s", b"\xff", b"9" * 400],
)
def test_any_other_timeout_is_invalid_at_its_header(said):
    with pytest.raises(errors.InvalidPayload) as caught:
        request_timeout(said)
    assert caught.value.errors[0]["loc"] == ["header", "x-request-timeout"]
    assert caught.value.errors[0]["input"] == said.decode("latin-1")


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("application/pdf", b"application/pdf"),
        ("text/plain; charset=utf-8", b"text/plain; charset=utf-8"),
        (None, b"application/octet-stream"),
        ("", b"application/octet-stream"),
        ("text/html\r\nSet-Cookie: a=b", b"application/octet-stream"),
        ("text/é", b"application/octet-stream"),
    ],
)
def test_a_media_type_that_could_be_no_header_is_bytes_of_unknown_kind(said, sent):
    assert media_type_header(said) == sent


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("a.pdf", b'attachment; filename="a.pdf"'),
        ("two words.pdf", b'attachment; filename="two words.pdf"'),
        ("naïve.pdf", b"attachment; filename=\"na_ve.pdf\"; filename*=UTF-8''na%C3%AFve.pdf"),
        ('a"b.pdf', b"attachment; filename=\"a_b.pdf\"; filename*=UTF-8''a%22b.pdf"),
        ("100%.pdf", b"attachment; filename=\"100_.pdf\"; filename*=UTF-8''100%25.pdf"),
        ("../../etc/passwd", b'attachment; filename=".._.._etc_passwd"'),
        ("a\r\nb: c", b'attachment; filename="a__b: c"'),
        ("\udcff", b"attachment; filename=\"_\"; filename*=UTF-8''%3F"),
    ],
)
def test_a_files_name_is_written_so_that_it_can_be_nothing_else(name, sent):
    assert disposition_header(name) == sent


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b'attachment; filename="a.pdf"', "a.pdf"),
        (b"attachment; filename*=UTF-8''na%C3%AFve.pdf", "naïve.pdf"),
        (b'attachment; filename="../../a.pdf"', "a.pdf"),
        (rb'attachment; filename="C:\\temp\\a.pdf"', "a.pdf"),
        (b"attachment", None),
        (b'attachment; filename=""', None),
        (b"\xff\xfe", None),
        (b"attachment; filename*=utf-7''+2AA-.txt", "?.txt"),
        (rb"attachment; filename*=unicode_escape''%5Cud800.txt", "?.txt"),
        (b"attachment; filename*=utf-8''%ff.txt", "\N{REPLACEMENT CHARACTER}.txt"),
        (b"attachment; filename*=idna''%ff", None),
        (b"attachment; filename*=a\0b''c", None),
    ],
)
def test_a_raw_body_has_the_name_its_content_disposition_gives_without_a_path(said, name):
    assert filename_of(said) == name

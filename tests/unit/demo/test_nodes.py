import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop import Blob, Job, Problem
from offloop.demo import pdf as reading
from offloop.demo.nodes import (
    BrokenPdf,
    Document,
    EmptyPdf,
    EncryptedPdf,
    OversizedPdf,
    Page,
    StopWords,
    Text,
    TooManyPages,
    extract_text,
    rank_words,
    read_pdf,
)
from offloop.messages import Envelope
from tests.unit.demo.pdfs import encrypted, encrypted_with_aes, forms, pdf, pdf_of_streams, showing

QUEUE = "A queue is a place where work waits.\nA bounded queue has an end (and says so)."
LOOP = "The event loop greets callers. The event loop never reads documents."


def run(data: bytes, job: Job | None = None) -> list[Page | Document]:
    return list(read_pdf(Blob(data, "application/pdf", "some.pdf"), job or Job.fake()))


def refused(data: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        run(data)
    return caught.value


# ---- what is read


def test_pages_come_one_by_one_and_then_the_document() -> None:
    pages = [Page(number=1, text=QUEUE, words=17), Page(number=2, text=LOOP, words=11)]
    assert run(pdf(QUEUE, LOOP)) == [*pages, Document(filename="some.pdf", pages=pages, words=28)]


def test_the_known_text_leads_to_the_known_keywords() -> None:
    document = run(pdf(QUEUE, LOOP))[-1]
    assert isinstance(document, Document)

    found = rank_words(extract_text(document), StopWords())

    assert found.words == 28
    assert [(keyword.phrase, keyword.count) for keyword in found.keywords[:2]] == [("event loop", 2), ("queue", 2)]


def test_progress_counts_pages() -> None:
    told: list[tuple[float, float | None]] = []
    run(pdf("one", "two", "three"), Job.fake(progress=lambda done, total, note: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]


class Leaving:
    """A caller who leaves after so many looks at whether it is still there."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def job_of(caller: Callable[[], bool]) -> Job:
    envelope = Envelope(rid="r1", endpoint="read", payload=b"", deadline=10.0)
    return Job(envelope, clock=lambda: 0.0, cancelled=caller)


def test_a_cancelled_job_reads_nothing() -> None:
    assert run(pdf("one", "two", "three"), Job.fake(cancelled=True)) == []


def test_a_caller_who_leaves_between_pages_gets_no_further_page_and_no_document() -> None:
    left = threading.Event()
    pages = read_pdf(Blob(pdf("one", "two", "three")), job_of(left.is_set))
    assert next(pages) == Page(number=1, text="one", words=1)
    left.set()
    assert list(pages) == []


def test_a_caller_who_leaves_in_the_middle_of_a_page_ends_it_however_deep_its_forms_are() -> None:
    # 200 times a form of 50,000 instructions: minutes of work in a file of two kilobytes.
    slow = forms(calls=200, instructions=50_000)
    assert len(slow) < 3000
    caller = Leaving(looks=1000)
    assert run(slow, job_of(caller)) == []
    assert caller.left < 0


def test_a_page_without_text_is_a_page() -> None:
    *pages, document = run(pdf("one", "", "three"))
    assert [page.words for page in pages if isinstance(page, Page)] == [1, 0, 1]
    assert isinstance(document, Document)


def test_words_cut_at_a_lines_end_are_joined_in_running_text() -> None:
    document = Document(filename=None, pages=[Page(number=1, text="back-pres-\nsure in o\ufb03ce", words=0)], words=0)
    assert extract_text(document) == Text(text="back-pressure in office")


@given(st.lists(st.sampled_from("queue door back-pressure don't 42 caf\u00e9 a".split()), min_size=1, max_size=40))
def test_as_many_words_are_counted_as_the_text_has(words: Sequence[str]) -> None:
    lines = "\n".join(" ".join(words[start : start + 8]) for start in range(0, len(words), 8))
    document = run(pdf(lines))[-1]
    assert isinstance(document, Document)
    assert document.words == len(words)
    assert rank_words(Text(text=" ".join(words)), StopWords()).words == len(words)


# ---- what is refused


def test_a_file_that_is_no_pdf_is_broken() -> None:
    problem = refused(b"milk, bread, a dozen eggs")
    assert isinstance(problem, BrokenPdf)
    assert (problem.status, problem.reason) == (422, "broken-pdf")


@pytest.mark.parametrize("part", [0.05, 0.2, 0.5, 0.8])
def test_a_torn_file_is_read_or_refused_and_never_anything_else(part: float) -> None:
    whole = pdf(*[QUEUE] * 5)
    try:
        *_, document = run(whole[: int(len(whole) * part)])
    except Problem as problem:
        assert isinstance(problem, BrokenPdf | EmptyPdf)  # noqa: PT017  (which of the two is pypdf's to say)
    else:
        assert isinstance(document, Document)


@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    whole = bytearray(pdf(QUEUE, LOOP))
    for _ in range(data.draw(st.integers(1, 12))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        *_, last = run(bytes(whole))
    except Problem as problem:
        assert type(problem) in reading.PROBLEMS  # noqa: PT017  (which one is pypdf's to say)
    else:
        assert isinstance(last, Document)


def test_a_file_without_bytes_is_empty() -> None:
    assert isinstance(refused(b""), EmptyPdf)


def test_a_file_without_pages_is_empty() -> None:
    problem = refused(pdf())
    assert isinstance(problem, EmptyPdf)
    assert problem.detail == "The file has no pages."


def test_a_file_without_text_is_empty_after_its_pages() -> None:
    messages = read_pdf(Blob(pdf("", "")), Job.fake())
    assert next(messages) == Page(number=1, text="", words=0)
    assert next(messages) == Page(number=2, text="", words=0)
    with pytest.raises(EmptyPdf, match="OCR"):
        next(messages)


def test_a_file_with_a_password_is_encrypted() -> None:
    assert isinstance(refused(encrypted(pdf(QUEUE), user="secret")), EncryptedPdf)


def test_a_file_with_an_owners_password_only_is_read() -> None:
    assert run(encrypted(pdf(QUEUE), user=""))[0] == Page(number=1, text=QUEUE, words=17)


def test_a_file_in_aes_is_encrypted() -> None:
    assert isinstance(refused(encrypted_with_aes(pdf(QUEUE))), EncryptedPdf)


def test_too_many_pages_says_how_many_and_how_many_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PAGES", 3)
    problem = refused(pdf(*["word"] * 4))
    assert isinstance(problem, TooManyPages)
    assert problem.members == {"pages": 4, "limit": 3}


def test_a_thousand_pages_are_read_and_one_more_is_not() -> None:
    page = showing("word")
    assert len(run(pdf_of_streams([page] * reading.MAX_PAGES))) == reading.MAX_PAGES + 1
    assert isinstance(refused(pdf_of_streams([page] * (reading.MAX_PAGES + 1))), TooManyPages)


# ---- small files that unpack to a great deal


def test_a_page_that_unpacks_to_too_many_bytes_is_oversized() -> None:
    bomb = pdf_of_streams([showing("harmless"), b" " * 50_000_000 + showing("boom")])
    assert len(bomb) < 100_000
    problem = refused(bomb)
    assert isinstance(problem, OversizedPdf)
    assert problem.members == {"page": 2}


def test_a_page_with_too_many_instructions_is_oversized() -> None:
    assert isinstance(refused(pdf_of_streams([b"q Q " * 400_000 + showing("boom")])), OversizedPdf)


def test_a_page_with_too_much_text_is_oversized() -> None:
    assert isinstance(refused(pdf("word " * 60_000)), OversizedPdf)


def test_a_document_with_too_much_text_is_oversized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offloop.demo.nodes.MAX_TEXT", 100)
    problem = refused(pdf(QUEUE, QUEUE))
    assert isinstance(problem, OversizedPdf)
    assert problem.members == {"page": 2}


# ---- files that go in circles


def test_a_catalog_that_is_its_own_page_tree_is_refused() -> None:
    assert isinstance(refused(pdf_of_streams([showing("word")], catalog="/Pages 1 0 R")), BrokenPdf | EmptyPdf)


def test_a_page_tree_that_contains_itself_is_read_once_or_refused() -> None:
    looped = pdf("word").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    assert isinstance(refused(looped), BrokenPdf | EmptyPdf | OversizedPdf)


def test_a_deep_nesting_is_refused() -> None:
    nested = pdf("word").replace(b"/Count 1", b"/Count 1 /Deep " + b"[" * 100_000)
    assert isinstance(refused(nested), BrokenPdf | EmptyPdf)


# ---- what text may hold


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\ud83d\ude00b", "a\U0001f600b"),
        ("a\ud83db", "a\ufffdb"),
        ("a\x00b\x07c", "abc"),
        ("a\tb \n  c\r\nd\x0ce", "a b\nc\nd\ne"),
        ("soft\u00adware", "software"),
    ],
)
def test_text_is_cleaned_of_what_json_cannot_hold(raw: str, clean: str) -> None:
    assert reading._sendable(raw) == clean


def test_pypdf_logs_nothing_about_a_damaged_file(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Problem):
        run(b"%PDF-1.4 garbage")
    assert not caplog.records

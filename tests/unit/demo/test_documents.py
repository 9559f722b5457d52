from importlib.resources import files
from pathlib import Path

import pytest

from offloop import Blob, Job
from offloop.demo.nodes import Document, read_pdf
from offloop.demo.ranking import words_of

DOCUMENTS = files("offloop.demo") / "documents"
SOURCES = Path(__file__).parents[3] / "scripts" / "documents"


def read(name: str) -> Document:
    data = (DOCUMENTS / name).read_bytes()
    document = list(read_pdf(Blob(data), Job.fake()))[-1]
    assert isinstance(document, Document)
    return document


@pytest.mark.parametrize(
    ("name", "source", "pages"),
    [
        ("note-on-waiting.pdf", "note.txt", 2),
        ("saying-no-in-time.pdf", "essay.txt", 11),
        ("guide-to-queues.pdf", "guide.txt", 60),
    ],
)
def test_what_is_read_back_is_what_was_written(name: str, source: str, pages: int) -> None:
    document = read(name)

    assert [page.number for page in document.pages] == list(range(1, pages + 1))
    read_back: list[str] = []
    for page in document.pages:
        *words, number = words_of(page.text)
        assert number == str(page.number), "every page ends with its number"
        assert page.words == len(words) + 1
        read_back += words
    written = (SOURCES / source).read_text("utf-8").replace("'", "\u2019")
    assert read_back == words_of(written)


def test_each_entry_of_the_guide_has_a_page_of_its_own() -> None:
    headings = [page.text.splitlines()[0] for page in read("guide-to-queues.pdf").pages]
    assert headings[0] == "A Field Guide to Queues"
    assert [heading.split(".")[0] for heading in headings[2:]] == [str(number) for number in range(1, 59)]


def test_the_documents_are_small_enough_to_travel_with_the_package() -> None:
    assert sum(len(path.read_bytes()) for path in DOCUMENTS.iterdir() if path.name.endswith(".pdf")) < 300 * 1024

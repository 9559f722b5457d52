"""The document service: PDFs in, their pages and keywords out.

Owns the messages, the nodes and the endpoints of the demo: what a user of offloop writes. Plain, blocking Python that
runs in the loops, so nothing of the web may enter: no FastAPI, no event loop, no `async def`.
"""

import re
import unicodedata
from collections.abc import Iterator

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel, Field

from offloop import Blob, Endpoint, Job, endpoint, node
from offloop.demo.pdf import PROBLEMS, BrokenPdf, EmptyPdf, EncryptedPdf, OversizedPdf, TooManyPages, open_pdf
from offloop.demo.ranking import StopWords, rank, words_of

__all__ = [
    "BrokenPdf", "Document", "EmptyPdf", "EncryptedPdf", "Keyword", "Keywords", "OversizedPdf", "Page", "Services",
    "StopWords", "Text", "TooManyPages", "extract_text", "keywords", "rank_words", "read", "read_pdf",
]  # fmt: skip

MIB = 2**20
MAX_TEXT = 3_000_000
"""Characters in one document. At four bytes each a `Document` still fits into a reply (`MAX_REPLY`, 16 MiB)."""
TOP = 10
"""Keywords of one text."""


class Page(BaseModel):
    """One page of a PDF, as text."""

    number: int = Field(description="Counted from 1")
    text: str
    words: int


class Document(BaseModel):
    """A whole PDF, as text."""

    filename: str | None
    pages: list[Page]
    words: int


class Text(BaseModel):
    """Running text, in English."""

    text: str


class Keyword(BaseModel):
    """A word, or a few words that stand together, that tells what a text is about."""

    phrase: str
    score: float = Field(description="C-value: comparable within one text only")
    count: int = Field(description="How often it occurs")


class Keywords(BaseModel):
    """What a text is about, the most telling first."""

    words: int = Field(description="How many words the text has")
    keywords: list[Keyword]


class Services(Provider):
    """What the nodes need besides messages: built once in each worker, before it is ready."""

    scope = Scope.APP
    stop_words = provide(StopWords)


@endpoint(http="POST /texts/keywords", timeout=2, max_in_flight=64)
def rank_words(text: Text, stop_words: FromDishka[StopWords]) -> Keywords:
    """Rank the keywords of an English text.

    At most ten, by their C-value; equal scores in the order of their first occurrence.
    """
    ranked = rank(text.text, stop_words, top=TOP)
    return Keywords(
        words=len(words_of(text.text)),
        keywords=[Keyword(phrase=term.phrase, score=round(term.score, 2), count=term.times) for term in ranked],
    )


@node
def read_pdf(pdf: Blob, job: Job) -> Iterator[Page | Document]:
    """Read a PDF: its pages as they come, then the document.

    Raises:
        EncryptedPdf, BrokenPdf, EmptyPdf, TooManyPages, OversizedPdf: what may be wrong with a file.
    """
    texts = open_pdf(pdf.data, cancelled=lambda: job.cancelled)
    pages: list[Page] = []
    room = MAX_TEXT
    for number, text in enumerate(texts, start=1):
        room -= len(text)
        if room < 0:
            raise OversizedPdf(page=number)
        pages.append(Page(number=number, text=text, words=len(words_of(text))))
        job.progress(number, len(texts))
        yield pages[-1]
    if job.cancelled:
        return  # nobody waits any more, and the pages ended early
    words = sum(page.words for page in pages)
    if not words:
        raise EmptyPdf("No page has any text. Scanned pages are pictures, and need OCR first.")
    yield Document(filename=pdf.filename, pages=pages, words=words)


@node
def extract_text(document: Document) -> Text:
    """Make running text of the pages: words that a line's end cut are joined, ligatures taken apart."""
    text = "\n".join(page.text for page in document.pages)
    text = re.sub(r"(?<=[^\W\d_])[-\u2010]\n(?=[a-z])", "", text)
    return Text(text=unicodedata.normalize("NFKC", text))


read = Endpoint(
    "read", Blob, Document, stream=Page, to=read_pdf, timeout=10, max_in_flight=32, max_body=32 * MIB,
    media_types=("application/pdf",), problems=PROBLEMS, http="POST /documents", websocket="/documents/stream",
)  # fmt: skip
keywords = Endpoint(
    "keywords", Blob, Keywords, stream=Page, to=read_pdf, timeout=10, max_body=32 * MIB, problems=PROBLEMS,
    http="POST /documents/keywords", websocket="/documents/keywords/stream",
)  # fmt: skip

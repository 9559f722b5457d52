"""PDF files as text, page by page, within bounds.

Owns pypdf: its errors become problems here, its limits and its log are set here, and no other module imports it.
Nothing of offloop but `Problem` may enter: this is what any program that reads PDFs would have.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from pypdf import Configuration, PdfReader, apply_configuration
from pypdf.errors import DependencyError, EmptyFileError, FileNotDecryptedError, LimitReachedError

from offloop import Problem

MAX_PAGES = 1000
MAX_PAGE_TEXT = 200_000
"""Characters on one page: fifty times a full one."""

# Bounds on one content stream, where a small file can unpack to a great deal. A dense page has some 50 kB of them and
# a few thousand operators; a page that reaches these bounds keeps pypdf busy for about a second.
LIMITS = Configuration(
    zlib_maximum_output_length=4_000_000,
    lzw_maximum_output_length=4_000_000,
    run_length_maximum_output_length=4_000_000,
    brotli_maximum_output_length=4_000_000,
    array_based_stream_maximum_output_length=4_000_000,
    stream_decoding_work_maximum_length=16_000_000,
    stream_parsing_work_maximum_count=300_000,
    page_tree_maximum_entries=20_000,
    xform_maximum_invocations_per_extraction=200,
)

_UNPRINTED = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad]")
"""Control characters that are not white space, and hyphens that show at a line's end only."""

# A damaged file can make pypdf log a warning for each of its objects. What is wrong with a file is the caller's to
# know, and the problem says it.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


class EncryptedPdf(Problem):
    """It opens with a password only."""

    status, title = 422, "The PDF is encrypted"


class BrokenPdf(Problem):
    """It is damaged, or not a PDF at all."""

    status, title = 422, "The PDF cannot be read"


class EmptyPdf(Problem):
    """No bytes, no pages, or no text on them."""

    status, title = 422, "The PDF has no text"


class TooManyPages(Problem):
    """Members: `pages`, how many it has, and `limit`, how many it may have."""

    status, title = 422, "The PDF has too many pages"


class OversizedPdf(Problem):
    """It unpacks to more than may be read. Member: `page`, the page that went too far, counted from 1; or null."""

    status, title = 422, "The PDF holds more than may be read"


PROBLEMS = (EncryptedPdf, BrokenPdf, EmptyPdf, TooManyPages, OversizedPdf)


class PageTexts:
    """The texts of a PDF's pages: counted at once, extracted one by one as they are iterated over."""

    def __init__(self, reader: PdfReader, pages: int, *, locked: bool, cancelled: Callable[[], bool]) -> None:
        self._reader = reader
        self._pages = pages
        self._locked = locked
        self._cancelled = cancelled

    def __len__(self) -> int:
        return self._pages

    def __iter__(self) -> Iterator[str]:
        try:
            for index in range(self._pages):
                self._go_on()
                with _problems(self._locked, page=index + 1):
                    page = self._reader.pages[index]
                    text = _sendable(page.extract_text(visitor_operand_before=self._go_on))
                if len(text) > MAX_PAGE_TEXT:
                    raise OversizedPdf(page=index + 1)
                yield text
        except _CancelledError:
            return

    def _go_on(self, *_: object) -> None:
        """Called before every instruction of a page, which may show forms that show forms, for minutes."""
        if self._cancelled():
            raise _CancelledError


class _CancelledError(BaseException):
    """Nobody wants the rest. No `Exception`, since pypdf goes on after any that comes out of a form."""


def open_pdf(data: bytes, *, cancelled: Callable[[], bool] = lambda: False) -> PageTexts:
    """Open a PDF.

    Args:
        data: the file's bytes.
        cancelled: asked before and in each page; once it says yes, the texts end there.

    Returns:
        The texts of its pages, at least one.

    Raises:
        EncryptedPdf, BrokenPdf, EmptyPdf, TooManyPages, OversizedPdf: here, or later at a page.
    """
    locked = b"/Encrypt" in data
    with _problems(locked):
        # A PDF that only its owner needs a password for opens without one: pypdf tries that.
        reader = PdfReader(BytesIO(data))
        pages = len(reader.pages)
    if pages == 0:
        raise EmptyPdf("The file has no pages.")
    if pages > MAX_PAGES:
        raise TooManyPages(pages=pages, limit=MAX_PAGES)
    return PageTexts(reader, pages, locked=locked, cancelled=cancelled)


@contextmanager
def _problems(locked: bool, page: int | None = None) -> Iterator[None]:
    """Name what pypdf raises, which for a hostile file may be anything: RecursionError, KeyError, struct.error, …"""
    try:
        with apply_configuration(LIMITS):
            yield
    except EmptyFileError as error:
        raise EmptyPdf("The file has no bytes.") from error
    except FileNotDecryptedError as error:
        raise EncryptedPdf("The file opens with a password only.") from error
    except LimitReachedError as error:
        raise OversizedPdf(page=page) from error
    except MemoryError:  # the machine's trouble, not the file's
        raise
    except Exception as error:
        # For AES pypdf wants a package that this service does without.
        if locked and isinstance(error, DependencyError):
            raise EncryptedPdf("The file is encrypted in a way this service cannot open.") from error
        raise BrokenPdf("The file is damaged, or not a PDF." if page is None else f"Page {page} is damaged.") from error


def _sendable(text: str) -> str:
    """Text as JSON can hold it: surrogates joined or replaced, no control characters; the lines without margins."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    lines = (" ".join(_UNPRINTED.sub("", line).split()) for line in text.splitlines())
    return "\n".join(lines).strip()

"""Make the PDFs that `offloop demo` reads, from the texts in `scripts/documents/`.

Owns a PDF writer of the smallest useful kind (ISO 32000-1): A5 pages, Helvetica, which every viewer has, and
compressed content streams. It runs when a text has changed, never for a user:

    python scripts/make_documents.py

A text is paragraphs between blank lines; `# ` is a title, `> ` a subtitle, `## ` a heading, `---` a new page.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "documents"
TARGET = HERE.parent / "src" / "offloop" / "demo" / "documents"
NAMES = {"note": "note-on-waiting", "essay": "saying-no-in-time", "guide": "guide-to-queues"}

WIDTH, HEIGHT = 420, 595
"""A5, in points."""
LEFT, TOP, BOTTOM = 58, 62, 64

# Widths of the printable ASCII characters, in thousandths of the size, from Adobe's metrics of the core fonts.
_REGULAR = """
278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 584 584
584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 667 667 611 278
278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500 722 500 500
500 334 260 334 584
"""
_BOLD = """
278 333 474 556 556 889 722 238 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 333 333 584 584
584 611 975 722 722 722 722 667 611 778 722 278 556 722 611 833 722 778 667 778 722 667 611 722 667 944 667 667 611 333
278 333 584 556 333 556 611 556 611 556 333 611 611 278 278 556 278 889 611 611 611 611 389 556 333 611 556 778 556 556
500 389 280 389 584
"""


@dataclass(frozen=True)
class Style:
    """How a kind of paragraph is set: font, size and line height, and the space before and after it, in points."""

    font: str
    size: float
    leading: float
    before: float = 0
    after: float = 8
    gray: float = 0.13


TITLE = Style("F2", 22, 27, before=4, after=4)
SUBTITLE = Style("F3", 11, 15, after=24, gray=0.45)
HEADING = Style("F2", 13, 18, before=12, after=5)
BODY = Style("F1", 11, 17)
FOOTER = Style("F1", 8, 10, gray=0.5)
STYLES = {"# ": TITLE, "> ": SUBTITLE, "## ": HEADING}

FONTS = {"F1": "Helvetica", "F2": "Helvetica-Bold", "F3": "Helvetica-Oblique"}
WIDTHS = {
    name: {chr(32 + index): int(width) for index, width in enumerate(table.split())} | {"\u2019": apostrophe}
    for name, table, apostrophe in (("F1", _REGULAR, 222), ("F2", _BOLD, 278), ("F3", _REGULAR, 222))
}


@dataclass
class Leaf:
    """One page being set: its drawing instructions, and how far down it is full."""

    instructions: list[str] = field(default_factory=list)
    y: float = HEIGHT - TOP

    def line(self, x: float, y: float, text: str, style: Style) -> None:
        """Show one line of text at (x, y), points from the lower left corner."""
        escaped = re.sub(r"([\\()])", r"\\\1", text)
        self.instructions.append(
            f"BT /{style.font} {style.size} Tf {style.gray} g 1 0 0 1 {x:.1f} {y:.1f} Tm ({escaped}) Tj ET"
        )


def width(text: str, style: Style) -> float:
    """Points that a line takes."""
    return sum(WIDTHS[style.font][character] for character in text) * style.size / 1000


def wrapped(text: str, style: Style) -> Iterator[str]:
    """The lines of a paragraph. Words are never cut: what is read back is what was written."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and width(longer, style) > WIDTH - 2 * LEFT:
            yield line
            line = word
        else:
            line = longer
    yield line


def paragraphs(source: str) -> Iterator[tuple[Style | None, str]]:
    """Each paragraph with its style; a page break is (None, "")."""
    for block in re.split(r"\n\s*\n|\n(?=---\n)|(?<=\n---)\n", source.replace("'", "\u2019").strip()):
        text = block.strip()
        if text == "---":
            yield None, ""
            continue
        mark = re.match(r"(#{1,2}|>) ", text)
        yield (STYLES[mark[0]], text[mark.end() :]) if mark else (BODY, text)


def leaves(source: str) -> list[Leaf]:
    """Set a text: its pages, numbered at the foot."""
    pages = [Leaf()]
    for style, text in paragraphs(source):
        if style is None:
            pages.append(Leaf())
            continue
        lines = list(wrapped(text, style))
        page = pages[-1]
        page.y -= style.before if page.instructions else 0
        # A heading is never the last of a page, and a paragraph never leaves one line alone at its end.
        together = style.leading * min(len(lines), 2) + (3 * BODY.leading if style is HEADING else 0)
        if page.y - together < BOTTOM:
            pages.append(Leaf())
        for index, line in enumerate(lines):
            page = pages[-1]
            if page.y - style.leading < BOTTOM or (index == len(lines) - 2 > 0 and page.y - 2 * style.leading < BOTTOM):
                page = Leaf()
                pages.append(page)
            page.y -= style.leading
            page.line(LEFT, page.y, line, style)
        page.y -= style.after
    for number, page in enumerate(pages, start=1):
        text = str(number)
        page.line((WIDTH - width(text, FOOTER)) / 2, 34, text, FOOTER)
    return pages


def pdf(title: str, pages: list[Leaf]) -> bytes:
    """Write the file: header, objects, cross-reference table, trailer (ISO 32000-1, section 7.5)."""
    first = 3 + len(FONTS) + 1
    kids = " ".join(f"{first + 2 * index} 0 R" for index in range(len(pages)))
    fonts = " ".join(f"/{name} {3 + index} 0 R" for index, name in enumerate(FONTS))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    objects.append(
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} /MediaBox [0 0 {WIDTH} {HEIGHT}] "
        f"/Resources << /Font << {fonts} >> >> >>".encode()
    )
    objects += [
        f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} /Encoding /WinAnsiEncoding >>".encode()
        for font in FONTS.values()
    ]
    objects.append(f"<< /Title ({title}) /Producer (scripts/make_documents.py) >>".encode())
    for index, page in enumerate(pages):
        content = zlib.compress("\n".join(page.instructions).encode("cp1252"), 9)
        objects.append(f"<< /Type /Page /Parent 2 0 R /Contents {first + 2 * index + 1} 0 R >>".encode())
        objects.append(
            f"<< /Length {len(content)} /Filter /FlateDecode >>\nstream\n".encode() + content + b"\nendstream"
        )

    written = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {first - 1} 0 R >>"
    start = len(written)
    written += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    written += f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(written)


def main() -> None:
    for source, name in NAMES.items():
        text = (SOURCES / f"{source}.txt").read_text("utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        pages = leaves(text)
        path = TARGET / f"{name}.pdf"
        path.write_bytes(pdf(title, pages))
        print(f"{path.name}: {len(pages)} pages, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

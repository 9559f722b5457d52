"""PDFs for tests, good and bad, written byte by byte so that a test knows what is in them."""

import io
import zlib
from collections.abc import Sequence

from pypdf import PdfReader, PdfWriter


def pdf(*pages: str) -> bytes:
    """A PDF that shows these texts, a line for each line, in Helvetica."""
    return pdf_of_streams([showing(text) for text in pages])


def showing(text: str) -> bytes:
    """The content stream that shows a text."""
    lines = (line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n"))
    shown = "\n".join(f"({line}) Tj T*" for line in lines)
    return f"BT /F1 12 Tf 14 TL 1 0 0 1 60 760 Tm\n{shown}\nET".encode("cp1252")


def pdf_of_streams(
    streams: Sequence[bytes], *, catalog: str = "/Pages 2 0 R", resources: str = "", objects: Sequence[bytes] = ()
) -> bytes:
    """A PDF with these content streams, one for each page.

    Args:
        streams: the pages' instructions.
        catalog: where the page tree is.
        resources: of each page, beside the font F1.
        objects: more objects, numbered from 4 + 2 * len(streams).
    """
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(streams)))
    bodies = [
        f"<< /Type /Catalog {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} /MediaBox [0 0 595 842] "
        f"/Resources << /Font << /F1 3 0 R >> {resources} >> >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for index, stream in enumerate(streams):
        bodies.append(f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * index} 0 R >>".encode())
        bodies.append(packed(stream))
    bodies += objects
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}".encode()
    out += f"trailer\n<< /Size {len(bodies) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def packed(stream: bytes, entries: str = "") -> bytes:
    """A stream object, compressed. `entries` are added to its dictionary."""
    data = zlib.compress(stream, 9)
    return f"<< /Length {len(data)} /Filter /FlateDecode {entries} >>\nstream\n".encode() + data + b"\nendstream"


def forms(*, calls: int, instructions: int) -> bytes:
    """A PDF of one page that shows the same form so often, which has so many instructions."""
    form = packed(
        b"q Q " * (instructions // 2) + showing("again"),
        "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /Font << /F1 3 0 R >> >>",
    )
    page = b"/X Do " * calls + showing("page")
    return pdf_of_streams([page], resources="/XObject << /X 6 0 R >>", objects=[form])


def encrypted(data: bytes, *, user: str, owner: str = "owner") -> bytes:
    """The same PDF, encrypted: it opens with either password."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt(user, owner, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


# The encryption dictionary of AES-256 (ISO 32000-2, 7.6.4.4): whoever opens it needs an AES implementation at once.
AES_256 = (
    f"/Encrypt << /Filter /Standard /V 5 /R 6 /Length 256 /P -1 /O <{'11' * 48}> /U <{'22' * 48}> "
    f"/OE <{'33' * 32}> /UE <{'44' * 32}> /Perms <{'55' * 16}> /StmF /StdCF /StrF /StdCF "
    "/CF << /StdCF << /CFM /AESV3 /AuthEvent /DocOpen /Length 32 >> >> >> /ID [<00> <00>]"
)


def encrypted_with_aes(data: bytes) -> bytes:
    """A PDF that says it is encrypted with AES-256."""
    return data.replace(b"/Root 1 0 R", f"/Root 1 0 R {AES_256}".encode())

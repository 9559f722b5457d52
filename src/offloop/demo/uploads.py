"""The files that the demo sends, and what the service finds in them.

Owns which files these are and how one is sent. It prints nothing, and measures no more than one answer's time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from offloop.demo.client import Client
from offloop.demo.report import Finding

DOCUMENTS = resources.files("offloop.demo") / "documents"
BUNDLED = ("note-on-waiting.pdf", "saying-no-in-time.pdf", "guide-to-queues.pdf")
LONGEST = BUNDLED[-1]
READ = "/documents"
KEYWORDS = "/documents/keywords"
SHOWN = 6
"""Keywords in a row."""


@dataclass(frozen=True)
class Upload:
    """A file to send. `trouble`: it could not be read from disk. `refusal`: the reason it is to be refused for."""

    name: str
    data: bytes = b""
    trouble: str = ""
    refusal: str = ""


def uploads(files: Sequence[Path]) -> list[Upload]:
    """These files; the bundled ones where there are none."""
    if files:
        return [_from_disk(path) for path in files]
    bundled = [Upload(name, (DOCUMENTS / name).read_bytes()) for name in BUNDLED]
    # What a failure looks like belongs to the show.
    return [*bundled, Upload("shopping-list.pdf", b"milk, bread, a dozen eggs", refusal="broken-pdf")]


def _from_disk(path: Path) -> Upload:
    try:
        return Upload(path.name, path.read_bytes())
    except OSError as error:
        return Upload(path.name, trouble=error.strerror or "cannot be read")


async def find(client: Client, upload: Upload) -> Finding:
    """Send a file twice: for its pages, and for its keywords, which is what is timed."""
    if upload.trouble:
        return Finding(upload.name, reason="unreadable", trouble=upload.trouble)
    read = await client.send("POST", READ, upload.data, "application/pdf")
    answer = await client.send("POST", KEYWORDS, upload.data, "application/pdf") if read.status == 200 else read
    if answer.status != 200:
        problem = answer.json()
        trouble = f"{answer.status} {problem['reason']}: {problem['detail']}"
        return Finding(upload.name, seconds=answer.seconds, reason=problem["reason"], trouble=trouble)
    document, found = read.json(), answer.json()
    return Finding(
        upload.name,
        pages=len(document["pages"]),
        words=document["words"],
        keywords=[keyword["phrase"] for keyword in found["keywords"]][:SHOWN],
        seconds=answer.seconds,
    )

"""The demo's web application: the document service with a page to try it, and its work in two plain ways beside it.

Owns what a user of offloop writes on the web side. No reading and no ranking may enter: that is in `nodes`.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from offloop import Blob, Job, Offloop
from offloop.demo import page
from offloop.demo.nodes import Document, Keywords, StopWords, extract_text, keywords, rank_words, read_pdf
from offloop.fastapi import OffloopRouter, OperatorRouter, exception_handlers, problem_responses

off = Offloop("offloop.demo.nodes")
app = FastAPI(
    title="offloop demo",
    summary="A document service: PDFs in, pages and keywords out.",
    exception_handlers=exception_handlers,
)
app.include_router(OffloopRouter(off, tags=["documents"]))
app.include_router(OperatorRouter(off, tags=["operator"]), prefix="/offloop")
app.include_router(page.router)


@app.get("/ping", tags=["compare"])
async def ping() -> str:
    """Answer at once: how long it takes shows how free the event loop is."""
    return "pong"


# ---- for comparison: what `POST /documents/keywords` does, without offloop

stop_words = StopWords()
compared: dict[str, Any] = {
    "tags": ["compare"],
    "responses": {422: problem_responses(keywords)[422]},
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    },
}
"""What FastAPI cannot see of them: a raw body, and what may be wrong with it."""


async def body(request: Request) -> bytes:
    """The raw body."""
    return await request.body()


def work(data: bytes) -> Keywords:
    """Call the same three functions one after another. Nodes are plain functions; nothing of offloop runs here."""
    (document,) = (message for message in read_pdf(Blob(data), Job.fake()) if isinstance(message, Document))
    return rank_words(extract_text(document), stop_words)


@app.post("/compare/async", **compared)
async def compare_async(data: Annotated[bytes, Depends(body)]) -> Keywords:
    """The problem: while the document is read, the event loop answers nobody."""
    return work(data)


@app.post("/compare/def", **compared)
def compare_def(data: Annotated[bytes, Depends(body)]) -> Keywords:
    """The usual remedy, a thread pool. The loop stays free; but up to forty threads want the GIL, behind a queue
    without an end, and go on when their callers have left.
    """
    return work(data)

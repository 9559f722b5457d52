"""A document service as the demo's page expects it, whose pages a test lets on one by one."""

import os
import signal
from collections.abc import Iterator

from pydantic import BaseModel

from offloop import Blob, Endpoint, Job, Problem, node
from offloop.demo.nodes import Keyword, Keywords, Page
from tests.support.gate import hold


class Script(BaseModel):
    """What stands in the place of a PDF: its pages' texts. After each the node stands at the gate under this name."""

    pages: list[str]
    name: str = ""


class TooManyPages(Problem):
    """Members: `pages` and `limit`."""

    status, title = 422, "The PDF has too many pages"


@node
def turn(blob: Blob, job: Job) -> Iterator[Page | Keywords]:
    """Page by page, then the keywords."""
    script = Script.model_validate_json(blob.data)
    if len(script.pages) > 1000:
        raise TooManyPages(pages=len(script.pages), limit=1000)
    for number, text in enumerate(script.pages, 1):
        job.progress(number - 1, len(script.pages))
        yield Page(number=number, text=text, words=len(text.split()))
        word = hold(script.name) if script.name else ""
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "stop" or job.cancelled:
            return
    job.progress(len(script.pages), len(script.pages))
    yield Keywords(words=7, keywords=[Keyword(phrase="waiting room", score=1.0, count=3)])


keywords = Endpoint(
    "keywords", Blob, Keywords, stream=Page, to=turn, timeout=30, problems=(TooManyPages,),
    max_in_flight=int(os.environ.get("TEST_IN_FLIGHT", "100")), http="POST /documents/keywords",
    websocket="/documents/keywords/stream",
)  # fmt: skip

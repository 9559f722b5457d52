"""A program whose requests somebody else would like to run, or to answer: it says each time that a node begins."""

import logging
import os
from collections.abc import Iterator

from pydantic import BaseModel

from offloop import Endpoint, Job, endpoint, node
from tests.support.gate import hold, note

if os.environ.get("TEST_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)


class Word(BaseModel):
    text: str
    held: bool = False


class Said(BaseModel):
    text: str
    cancelled: bool = False


class Part(BaseModel):
    text: str


class Tale(BaseModel):
    text: str


@endpoint(http="POST /say", timeout=20)
def say(word: Word, job: Job) -> Said:
    note(f"say {word.text}")
    if word.held:
        hold(word.text)
    return Said(text=word.text, cancelled=job.cancelled)


@endpoint(http="POST /fatal", timeout=60, idempotent=True)
def fatal(part: Part) -> Said:
    note(f"fatal {part.text}")
    os._exit(3)


@node
def recite(tale: Tale, job: Job) -> Iterator[Part | Said]:
    yield Part(text=tale.text)
    hold(tale.text)
    yield Said(text=tale.text, cancelled=job.cancelled)


tell = Endpoint("tell", Tale, Said, stream=Part, to=recite, http="POST /tell", timeout=20)

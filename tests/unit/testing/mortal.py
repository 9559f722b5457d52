"""A program whose nodes say which process runs them, and stand at the gate until a test lets them on."""

import os

from pydantic import BaseModel

from offloop import endpoint
from tests.support import gate


class Name(BaseModel):
    name: str


class Ran(BaseModel):
    pid: int


def stand(at: Name) -> Ran:
    gate.note(f"{at.name} is run by {os.getpid()}")
    gate.hold(at.name)
    return Ran(pid=os.getpid())


@endpoint(timeout=30)
def once(at: Name) -> Ran:
    return stand(at)


@endpoint(timeout=30, idempotent=True)
def again(at: Name) -> Ran:
    return stand(at)

"""A program that preflight refuses, for two reasons."""

from pydantic import BaseModel

from offloop import Endpoint, node


class Asked(BaseModel):
    n: int


class Answered(BaseModel):
    n: int


@node
def one(asked: Asked) -> Answered:
    return Answered(n=1)


@node
def other(asked: Asked) -> Answered:
    return Answered(n=2)


ambiguous = Endpoint("ambiguous", Asked, Answered, http="POST /ambiguous")
unreachable = Endpoint("unreachable", Answered, Asked, http="POST /unreachable")

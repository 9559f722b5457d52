"""What a web process imports: messages and endpoints, and not one node."""

from pydantic import BaseModel

from offloop import Endpoint, Problem

NODES = "tests.e2e.programs.far.nodes"


class Order(BaseModel):
    """`name`: stand at the gate under that name."""

    name: str = ""


class Done(BaseModel):
    pid: int
    word: str = ""


class Refused(Problem):
    status, title = 409, "The order is refused"


hold = Endpoint("hold", Order, Done, to=f"{NODES}:hold_on", problems=(Refused,), timeout=20, http="POST /hold")
fragile = Endpoint("fragile", Order, Done, to=f"{NODES}:break_down", idempotent=True, timeout=20, http="POST /fragile")
trained = Endpoint("trained", Order, Done, to=f"{NODES}:train", pool="gpu", timeout=20, http="POST /trained")

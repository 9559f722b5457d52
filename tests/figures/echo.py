"""The program whose request is counted in `tests/unit/test_hot_path.py`."""

from pydantic import BaseModel

from offloop import endpoint


class Req(BaseModel):
    n: int
    payload: str


class Reply(BaseModel):
    n: int
    size: int


@endpoint(http="POST /echo")
def echo(req: Req) -> Reply:
    return Reply(n=req.n, size=len(req.payload))

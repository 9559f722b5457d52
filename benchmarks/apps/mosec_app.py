"""The same work behind Mosec: its HTTP server is written in Rust, its workers are Python processes.

It takes bytes and leaves their meaning to the worker, which does with them what FastAPI does for the others.
"""

import os
from typing import Any

from mosec import Server, Worker
from pydantic import BaseModel

from work import WORKERS, Req, digested, echoed, slept, spun

WORK = os.environ["BENCH_WORK"]
FUNCTIONS = {"echo": echoed, "cpu10": spun, "sleep5": slept, "big": digested}


class Model(Worker):
    def deserialize(self, data: bytes) -> Any:
        return data if WORK == "big" else Req.model_validate_json(data)

    def forward(self, data: Any) -> BaseModel:
        return FUNCTIONS[WORK](data)

    def serialize(self, data: BaseModel) -> bytes:
        return data.model_dump_json().encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=WORKERS, route=f"/{WORK}")
    server.run()

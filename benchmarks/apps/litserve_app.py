"""The same work behind LitServe: its own FastAPI server process, and inference worker processes."""

import os
from typing import Any

from litserve import LitAPI, LitServer

from work import WORKERS, Reply, Req, Slept, echoed, slept, spun

WORK = os.environ["BENCH_WORK"]
FUNCTION, Answer = {"echo": (echoed, Reply), "cpu10": (spun, Reply), "sleep5": (slept, Slept)}[WORK]


class Api(LitAPI):
    def setup(self, device: Any) -> None:
        pass

    def decode_request(self, request: Req) -> Req:
        return request

    def predict(self, x: Req) -> Any:
        return FUNCTION(x)

    def encode_response(self, output: Any) -> Answer:  # LitServe makes it the route's response model
        return output


if __name__ == "__main__":
    server = LitServer(
        Api(api_path=f"/{WORK}"),
        accelerator="cpu",
        devices=1,
        workers_per_device=WORKERS,
        restart_workers="BENCH_RESTART" in os.environ,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )

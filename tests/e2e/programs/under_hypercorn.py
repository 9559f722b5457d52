"""Serve an app under hypercorn: `python -m tests.e2e.programs.under_hypercorn module:attribute`."""

import asyncio
import importlib
import socket
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"hypercorn running on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = "-"
    module, _, attribute = sys.argv[1].partition(":")
    asyncio.run(serve(getattr(importlib.import_module(module), attribute), config))

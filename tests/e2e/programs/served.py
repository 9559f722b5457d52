"""Programs that serve the app in other ways than uvicorn's command line. `python -m tests.e2e.programs.served WAY`."""

import asyncio
import signal
import sys
import threading

import uvicorn

from tests.e2e.programs import nodes
from tests.e2e.programs.app import app, off


def ignoring() -> None:
    """SIGINT was ignored before the server came (as under nohup): it stays ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(alone())


async def alone() -> None:
    """No server at all: the loops live in a plain asyncio program."""
    async with off:
        print("running on http://127.0.0.1:0", flush=True)
        print("Application startup complete", flush=True)
        reply = await off.ask(nodes.gated, nodes.Gated(name="alone"))
        print(f"reply {reply.word}", flush=True)


def threaded() -> None:
    """The server runs off the main thread, where no signal can be taken over."""
    server = uvicorn.Server(uvicorn.Config(app, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    signal.sigwait({signal.SIGTERM})
    server.should_exit = True
    thread.join()
    print("joined", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "threaded":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threaded()
    elif sys.argv[1] == "ignoring":
        ignoring()
    else:
        asyncio.run(alone())

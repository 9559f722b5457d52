"""Starting and ending the demo's server, which is a process of its own so that measuring does not share its GIL.

Owns that process from the outside: started, ready, ended, and never left behind. What it serves is not known here.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

from offloop.demo.client import Client

HOST = "127.0.0.1"
START = 30.0
"""Seconds until it must be ready."""
STOP = 30.0
"""Seconds until it must have ended: its drain's budget (20 s), and some."""


class ServerFailed(Exception):
    """The server did not start, or ended by itself; the text says which."""


class Server:
    """A server that is ready.

    Attributes:
        pid: of its process.
        port: where it listens.
        client: talks to it.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.pid = process.pid
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.client = Client(HOST, port)

    async def wait(self) -> NoReturn:
        """Until it ends by itself.

        Raises:
            ServerFailed: always; it is not meant to.
        """
        raise ServerFailed(f"the server ended by itself, with exit code {await self._process.wait()}")


@asynccontextmanager
async def serving(ports: Sequence[int], mode: str | None = None) -> AsyncIterator[Server]:
    """Start a server, and end it when the block is left, however it is left.

    Args:
        ports: it takes the first that is free; 0 is any.
        mode: `thread`, `process` or `cluster`; None: as the environment says.

    Raises:
        ServerFailed: it did not become ready, or had to be killed at the end.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "offloop.demo.server", *map(str, ports),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **({"OFFLOOP_MODE": mode} if mode else {})},
        # A terminal sends Ctrl-C to the whole group. The server is to hear of it from here, once.
        start_new_session=True,
    )  # fmt: skip
    try:
        server = await _ready(process)
        try:
            yield server
        finally:
            await server.client.close()
    finally:
        await _end(process)


async def _ready(process: asyncio.subprocess.Process) -> Server:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START):
            line = await process.stdout.readline()
            if not line:
                raise ServerFailed(f"the server did not start: exit code {await process.wait()}")
            server = Server(process, int(line))
            while not await _answers(server.client):
                if process.returncode is not None:
                    raise ServerFailed(f"the server did not start: exit code {process.returncode}")
                await asyncio.sleep(0.05)
            return server
    except TimeoutError:
        raise ServerFailed(f"the server was not ready within {START:.0f} s") from None


async def _answers(client: Client) -> bool:
    # The port is bound before the application has started: connections wait, or are refused where it failed.
    try:
        return (await client.send("GET", "/offloop/readyz")).status == 200
    except OSError:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, as a supervisor would, and wait for the drain."""
    if process.returncode is not None:
        return  # it ended by itself; whoever noticed has said so
    process.terminate()
    try:
        async with asyncio.timeout(STOP):
            code = await process.wait()
    except BaseException as error:  # too late, or interrupted again: the caller's patience has ended
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise ServerFailed(f"the server had not ended {STOP:.0f} s after SIGTERM, and was killed") from None
        raise
    # After its drain uvicorn passes the signal on to itself.
    if code not in (0, -signal.SIGTERM):
        raise ServerFailed(f"the server ended with exit code {code}")

"""A thousand sockets at once, on one server, in every mode: what they cost, and that nothing of them is left."""

import asyncio
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async

from tests.e2e.test_websocket import APP, address
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, descriptors, serving

SOCKETS = 1000
DESCRIPTORS = 4096
PER_SOCKET = 128 * 1024
"""Bytes that the server may need for a socket that waits, without compression: its windows are the server's affair."""
DEADLINE = 30.0


@pytest.fixture
def _descriptors() -> Iterator[None]:
    """Room for the clients' sockets here, and for the server's: it inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(server: Server) -> int:
    """Bytes of the server process that are resident."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def hear(socket: ClientConnection) -> tuple[list[int], str]:
    """The numbers of the next answer's bits, and the id that all of it has."""
    bits = []
    while True:
        said = json.loads(await socket.recv())
        if said["event"] == "reply":
            return bits, said["id"]
        assert said["event"] in ("chunk", "progress"), said
        if said["event"] == "chunk":
            bits.append(said["data"]["number"])


@pytest.mark.usefixtures("_descriptors")
async def test_a_thousand_sockets_each_get_their_own_answer_and_leave_nothing_behind(mode: Mode, gate: Gate) -> None:
    env = mode.env(4, per_worker=2, queue_limit=SOCKETS)
    with serving(APP, "--timeout-keep-alive", "300", env=env) as server:  # the client's own connection stays
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as http, asyncio.timeout(50):

            async def tasks() -> int:
                count: int = (await http.get("/tasks")).json()
                return count

            async def waiters() -> int:
                count: int = (await http.get("/offloop/status")).json()["endpoints"]["tell"]["in_flight"]
                return count

            opening = asyncio.Semaphore(50)

            async def opened() -> ClientConnection:
                async with opening:
                    return await connect_async(address(server, "/tell"), compression=None, open_timeout=DEADLINE)

            async def asked(socket: ClientConnection, number: int) -> None:
                await socket.send(json.dumps({"id": f"of {number}", "data": {"bits": number % 5}}))
                assert await hear(socket) == ([*range(number % 5)], f"of {number}")

            tasks_before, descriptors_before = await tasks(), descriptors(server)
            warm = await opened()  # what is built once is not what a socket costs
            await asked(warm, 4)
            await warm.close()
            memory_before = memory(server)

            sockets = await asyncio.gather(*(opened() for _ in range(SOCKETS)))
            assert descriptors(server) > SOCKETS
            assert memory(server) - memory_before < SOCKETS * PER_SOCKET
            for _ in range(2):
                async with asyncio.TaskGroup() as answers:
                    for number, socket in enumerate(sockets):
                        answers.create_task(asked(socket, number))
                    served = await http.post("/echo", json={"n": 1})
                    assert (served.status_code, served.json()) == (200, {"n": 1})
            assert memory(server) - memory_before < SOCKETS * PER_SOCKET

            await asyncio.gather(*(socket.close() for socket in sockets))
            while await tasks() > tasks_before or descriptors(server) > descriptors_before:
                pass
            assert await waiters() == 0
    assert "Traceback" not in server.log

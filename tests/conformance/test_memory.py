"""The memory transport does what every transport must."""

import asyncio

from offloop.messages import WorkerGone
from offloop.testing.conformance import Ends, TransportConformance
from offloop.transports.memory import MemoryTransport


class TestMemory(TransportConformance):
    async def open(self) -> Ends:
        loop = asyncio.get_running_loop()
        transport = MemoryTransport(loop.call_soon_threadsafe, loop.call_soon)
        return Ends(
            sink=transport, source=transport, reply_sink=transport, reply_source=transport,
            close=transport.close, nudge=transport.nudge, lose=lambda: transport.send(WorkerGone("loop-1", "died")),
        )  # fmt: skip

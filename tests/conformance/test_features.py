"""The suite serves a transport that does some things in its own way, and says so."""

import asyncio

from offloop.messages import Withdrawn
from offloop.testing.conformance import Ends, Features, TransportConformance
from offloop.transports.memory import MemoryTransport


class Distant(MemoryTransport):
    """It tells of a withdrawal later, as a transport does whose claims are made in another process."""

    def withdraw(self, rid: str) -> bool | None:
        taken = super().withdraw(rid)
        self._wake(lambda: self.send(Withdrawn(rid, begun=not taken)))
        return None


class TestDistant(TransportConformance):
    features = Features(late_withdrawal=True, begun_at_once=False, ordered=False, deadline_tolerance=0.1, volume=500)

    async def open(self) -> Ends:
        transport = Distant(asyncio.get_running_loop().call_soon_threadsafe)
        return Ends(
            sink=transport, source=transport, reply_sink=transport, reply_source=transport, close=transport.close
        )

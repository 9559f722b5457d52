"""Conformance suites: what every transport must do, as tests that its author runs.

Owns one suite per pair of ports. Subclass `TransportConformance` in a test file, say how the transport is opened, and
pytest collects the tests. What a transport may do otherwise it declares in its `Features`.

Example:
    ```python
    class TestMemory(TransportConformance):
        async def open(self) -> Ends:
            transport = MemoryTransport(asyncio.get_running_loop().call_soon_threadsafe)
            return Ends(sink=transport, source=transport, reply_sink=transport, reply_source=transport,
                        close=transport.close, nudge=transport.nudge)
    ```
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("attempts", "losses", "replies", "streams", "suite", "transport", "web_side", "work")
    )
)

from offloop.testing.conformance.ends import Ends, Features  # noqa: E402  (asserts explain themselves only from here on)
from offloop.testing.conformance.transport import TransportConformance  # noqa: E402

__all__ = ["Ends", "Features", "TransportConformance"]

"""A TCP proxy whose every misfortune a test decides: between a process and its broker.

Owns connections and how bytes pass. It runs on an event loop in a thread of its own, and knows no protocol.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

CHUNK = 2**16
DEADLINE = 10.0


class Proxy:
    """Made by `proxy`. Every method returns once it is so, and is for the test's thread.

    Args:
        target: the port on this host to which it leads.

    Attributes:
        port: where it listens; the same after `refuse` and `heal`.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._delay = 0.0
        self._rate = 0.0

    def start(self) -> None:
        self._thread.start()
        self.heal()

    def close(self) -> None:
        self._run(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    # ---- what befalls it

    def heal(self) -> None:
        """Everything passes, at once; what was held back comes first."""
        self._run(self._healed())

    def cut(self) -> None:
        """All connections break; new ones can be made."""
        self._do(self._abort)

    def refuse(self) -> None:
        """The same, and nobody listens."""
        self._run(self._refused())

    def blackhole(self) -> None:
        """Connections stay and new ones are taken, and nothing passes either way."""
        self._do(self._flowing.clear)

    def lead(self, target: int) -> None:
        """New connections go to another port; those that are there stay where they are."""
        self._do(lambda: setattr(self, "_target", target))

    def delay(self, seconds: float) -> None:
        """Whatever the target says comes so much later."""
        self._do(lambda: setattr(self, "_delay", seconds))

    def slow(self, rate: float) -> None:
        """So many bytes pass in a second, in either direction of each connection."""
        self._do(lambda: setattr(self, "_rate", rate))

    # ---- on its event loop

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def _do(self, action: Callable[[], None]) -> None:
        async def do() -> None:
            action()

        self._run(do())

    async def _healed(self) -> None:
        self._delay = self._rate = 0.0
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refused(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._abort()

    async def _closed(self) -> None:
        await self._refused()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for transports to close

    def _abort(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._let_go(writer)
            return
        self._writers.add(back)
        for source, sink, delayed in ((reader, back, False), (there, writer, True)):
            task = self._loop.create_task(self._pass(source, sink, delayed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delayed: bool) -> None:
        """One direction, until it ends; its end passes like its bytes."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"all"
            while data:
                try:
                    data = await source.read(CHUNK)
                except OSError:
                    data = b""
                due.put_nowait((self._loop.time() + (self._delay if delayed else 0.0), data))

        reading = self._loop.create_task(read())
        try:
            while True:
                at, data = await due.get()
                await asyncio.sleep(max(0.0, at - self._loop.time()))
                await self._flowing.wait()
                if not data:
                    break
                if self._rate:
                    await asyncio.sleep(len(data) / self._rate)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # the other side has gone
        finally:
            reading.cancel()
            self._let_go(sink)

    def _let_go(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """One that lets everything pass; closed at the end."""
    one = Proxy(target)
    one.start()
    try:
        yield one
    finally:
        one.close()

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from offloop.demo.client import Client

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def server(*answers: bytes, read_body: bool = True) -> AsyncIterator[tuple[Client, list[bytes]]]:
    """Answers the requests of all connections with these bytes, in turn; `b""` closes instead. Yields what came."""
    came: list[bytes] = []
    left = iter(answers)
    connections: list[asyncio.Task[object]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.append(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                came.append(head + (await reader.readexactly(length) if read_body else b""))
                answer = next(left)
                writer.write(answer)
                if not answer or not read_body:
                    break
        except asyncio.IncompleteReadError:
            pass  # the client has closed
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client("127.0.0.1", listening.sockets[0].getsockname()[1], timeout=5)
    async with listening:
        yield client, came
        await client.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*connections)


def test_a_request_carries_its_body_and_its_type() -> None:
    async def story() -> None:
        async with server(OK) as (client, came):
            answer = await client.send("POST", "/documents", b"%PDF", "application/pdf")
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.seconds > 0
            assert came[0].startswith(b"POST /documents HTTP/1.1\r\nHost: 127.0.0.1:")
            assert came[0].endswith(b"Content-Length: 4\r\nContent-Type: application/pdf\r\n\r\n%PDF")

    asyncio.run(story())


def test_a_chunked_answer_is_read_whole_and_the_connection_kept() -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n{"a\r\n6\r\n": 42}\r\n0\r\nt: 1\r\n\r\n'

    async def story() -> None:
        async with server(chunked, OK) as (client, came):
            assert (await client.send("GET", "/")).json() == {"a": 42}
            assert (await client.send("GET", "/")).body == b"hello"
            assert len(came) == 2

    asyncio.run(story())


def test_headers_are_found_by_their_lower_case_names() -> None:
    async def story() -> None:
        async with server(b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nConnection: Close\r\n\r\n", OK) as (client, _):
            refusal = await client.send("GET", "/")
            assert (refusal.status, refusal.headers["retry-after"], refusal.body) == (503, "3", b"")
            assert (await client.send("GET", "/")).status == 200

    asyncio.run(story())


def test_requests_at_once_have_a_connection_each() -> None:
    async def story() -> None:
        async with server(OK, OK, OK) as (client, came):
            await asyncio.gather(*(client.send("GET", f"/{number}") for number in range(3)))
            assert len(came) == 3

    asyncio.run(story())


def test_a_refusal_in_the_middle_of_a_large_body_is_read() -> None:
    async def story() -> None:
        refusal = b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        async with server(refusal, read_body=False) as (client, _):
            try:
                answer = await client.send("POST", "/documents", b"x" * 100_000)
            except ConnectionError:
                return  # the kernel threw the answer away with the connection: said so, and no hang
            assert (answer.status, answer.body) == (413, b"no")

    asyncio.run(story())


@pytest.mark.parametrize(
    "half", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_a_server_that_goes_away_is_a_connection_error(half: bytes) -> None:
    async def story() -> None:
        async with server(half, read_body=False) as (client, _):
            with pytest.raises(ConnectionError):
                await client.send("GET", "/")

    asyncio.run(story())


def test_no_server_is_an_os_error() -> None:
    async def story() -> None:
        async with server() as (client, _):
            pass
        with pytest.raises(OSError, match="Connect"):
            await client.send("GET", "/")

    asyncio.run(story())


def test_a_server_that_never_answers_times_out() -> None:
    async def story() -> None:
        hung_up = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            await writer.wait_closed()
            hung_up.set()

        listening = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with listening:
            client = Client("127.0.0.1", listening.sockets[0].getsockname()[1], timeout=0.05)
            with pytest.raises(TimeoutError):
                await client.send("GET", "/")
            async with asyncio.timeout(5):
                await hung_up.wait()

    asyncio.run(story())

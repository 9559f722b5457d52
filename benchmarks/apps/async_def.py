"""FastAPI's own `async def` routes: the work runs on the event loop.

Those that stream do no work at all: they send what was written once, and so are the least that a stream can cost.
"""

from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from work import Digest, Piece, Reply, Req, Slept, Wanted, Whole, digested, echoed, slept, spun

app = FastAPI()


@app.post("/echo")
async def echo(req: Req) -> Reply:
    return echoed(req)


@app.post("/cpu10")
async def cpu10(req: Req) -> Reply:
    return spun(req)


@app.post("/sleep5")
async def sleep5(req: Req) -> Slept:
    return slept(req)


@app.post("/big")
async def big(request: Request) -> Digest:
    return digested(await request.body())


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


@app.websocket("/stream")
async def stream_frames(websocket: WebSocket) -> None:
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        while True:
            asked = await websocket.receive_json()
            wanted = Wanted.model_validate(asked["data"])
            chunk, reply = (_frame(asked["id"], *one) for one in _said(wanted))
            for _ in range(wanted.pieces):
                await websocket.send_text(chunk)
            await websocket.send_text(reply)


@app.post("/stream")
async def stream_events(wanted: Wanted) -> StreamingResponse:
    chunk, reply = (f"event: {event}\ndata: {data}\n\n".encode() for event, data in _said(wanted))

    async def events() -> AsyncIterator[bytes]:
        for _ in range(wanted.pieces):
            yield chunk
        yield reply

    return StreamingResponse(events(), media_type="text/event-stream")


def _said(wanted: Wanted) -> tuple[tuple[str, str], tuple[str, str]]:
    """The event and the data of every chunk, and of the reply."""
    piece = Piece(n=wanted.pieces, payload="x" * wanted.size)
    return ("chunk", piece.model_dump_json()), ("reply", Whole(pieces=wanted.pieces).model_dump_json())


def _frame(id: str, event: str, data: str) -> str:  # noqa: A002
    return f'{{"id":"{id}","event":"{event}","data":{data}}}'

"""FastAPI's own `async def` routes: the work runs on the event loop."""

from fastapi import FastAPI, Request

from work import Digest, Reply, Req, Slept, digested, echoed, slept, spun

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

"""FastAPI's own `async def` routes: the work runs on the event loop."""

from fastapi import FastAPI

from work import Reply, Req, echoed, spun

app = FastAPI()


@app.post("/echo")
async def echo(req: Req) -> Reply:
    return echoed(req)


@app.post("/cpu10")
async def cpu10(req: Req) -> Reply:
    return spun(req)


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

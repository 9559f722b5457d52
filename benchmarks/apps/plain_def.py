"""FastAPI's own `def` routes: the work runs in the thread pool that FastAPI keeps for it."""

from fastapi import FastAPI

from work import Reply, Req, echoed, spun

app = FastAPI()


@app.post("/echo")
def echo(req: Req) -> Reply:
    return echoed(req)


@app.post("/cpu10")
def cpu10(req: Req) -> Reply:
    return spun(req)


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}

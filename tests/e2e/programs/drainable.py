"""An app that drains when it is told to."""

from tests.e2e.programs.app import app, off


@app.post("/drain")
async def drain() -> None:
    off.begin_drain()

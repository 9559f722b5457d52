"""The demo's page: its files as routes, with what a browser is told to allow them.

Owns which files are served, where, and their headers. How documents are read is `nodes`; how that looks is in the files
beside this one, which need no build step and nothing from another host.
"""

from functools import partial
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

HERE = Path(__file__).parent
SERVED = {
    "/": HERE / "index.html",
    **{f"/page/{path.name}": path for path in sorted(HERE.iterdir()) if path.suffix in (".css", ".js", ".svg")},
    **{f"/samples/{path.name}": path for path in sorted((HERE.parent / "documents").glob("*.pdf"))},
}
"""Path on the server to file."""

HEADERS = {
    # All of the page is in its own files. Nothing inline, nothing made from text, nothing of another host.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    # Kept, and asked about before each use: a page never meets the scripts of another release.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def serve(path: Path) -> FileResponse:
    """One file. `async`, since FastAPI would otherwise use its thread pool to make the answer."""
    return FileResponse(path, headers=HEADERS)


router = APIRouter(include_in_schema=False)
for url, file in SERVED.items():
    router.add_api_route(url, partial(serve, file), methods=["GET", "HEAD"], response_model=None, name=f"page {url}")

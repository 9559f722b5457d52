"""What every test shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the only event loop that offloop's web side knows."""
    return "asyncio"

"""What every test shares."""

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changes; `make test-all` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the only event loop that offloop's web side knows."""
    return "asyncio"

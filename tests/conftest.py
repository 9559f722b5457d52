"""What every test shares."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changes; `make test-all` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _one_rabbit() -> Iterator[None]:
    """Ended when all that use it have."""
    yield
    from tests.support.rabbit import end_shared

    end_shared()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the only event loop that offloop's web side knows."""
    return "asyncio"

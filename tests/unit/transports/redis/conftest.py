"""One Redis for all of these tests; those that stop one have their own."""

from collections.abc import Iterator

import pytest

from offloop.transports.redis.wire import Line, address_of
from tests.support.broker import Broker, broker


@pytest.fixture(scope="package")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@pytest.fixture
def line(redis: Broker) -> Iterator[Line]:
    line = Line(address_of(redis.url))
    yield line
    line.close()

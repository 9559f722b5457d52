"""The pytest plugin: a fixture that fails a test which leaves waiters behind.

Owns that one look after a test. It is loaded by `pytest_plugins = ["offloop.testing.pytest_plugin"]` in the topmost
`conftest.py`, and not by itself: a test run that has no use for it does not pay for the import.
"""

import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from offloop.assembly import alive
from offloop.core.waiters import Waiter

GRACE = 0.5
"""Seconds that an event loop in another thread has to end what a test has already let go."""
PAUSE = 0.005


@pytest.fixture
def no_waiters_left() -> None:
    """Fail the test if a request that it made is still waited for when the test's own code has ended.

    Where an Offloop outlives its tests, a request that one of them forgot would end in another's time. For all tests of
    a module: `pytestmark = pytest.mark.usefixtures("no_waiters_left")`; for all there are: `usefixtures` in the
    configuration of pytest.
    """


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    # Here and not in the fixture's end: fixtures that leave an Offloop may run before it, and their drain settles all.
    before = set(_waiters())
    result = yield
    if "no_waiters_left" in getattr(item, "fixturenames", ()):
        left = [f"  {_told(waiter)}" for waiter in _left_since(before)]
        if left:
            pytest.fail("\n".join(["the test left waiters behind:", *left]), pytrace=False)
    return result


def _waiters() -> Iterator[Waiter]:
    for runtime in tuple(alive):
        yield from runtime.gateway.waiters


def _left_since(before: set[Waiter]) -> list[Waiter]:
    """Those that were not there before; an event loop that runs in another thread is given a moment to end them.

    It looks again and again, for no other thread is told of a waiter's end.
    """
    pause, looks = threading.Event(), int(GRACE / PAUSE)
    while left := [waiter for waiter in _waiters() if waiter not in before]:
        if not looks or not any(runtime.loop.is_running() for runtime in tuple(alive)):
            break
        looks -= 1
        pause.wait(PAUSE)
    return left


def _told(waiter: Waiter) -> str:
    label = f", request_id {waiter.request_id}" if waiter.request_id else ""
    return f"{waiter.endpoint} ({waiter.phase.name.lower()}{label})"

"""A test that leaves waiters behind fails, and says which; run as a user runs pytest."""

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from offloop import Offloop, Settings

pytest_plugins = ["offloop.testing.pytest_plugin"]


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def off():
    import program
    settings = Settings(threads=1, gc_freeze=False, drain_timeout=1)
    async with Offloop("program", settings=settings) as off:
        yield off
        program.gate.set()
"""

PROGRAM = """
import threading
from pydantic import BaseModel
from offloop import endpoint

gate = threading.Event()


class Text(BaseModel):
    text: str


@endpoint
def hold(text: Text) -> Text:
    gate.wait(10)
    return text


@endpoint
def echo(text: Text) -> Text:
    return text
"""

TESTS = """
import asyncio
import threading
import pytest
from program import Text, echo, gate, hold

pytestmark = pytest.mark.anyio
no_waiters_left = pytest.mark.usefixtures("no_waiters_left")
background = []


async def forget(off):
    asking = off.ask(hold, Text(text="x"), request_id="label-7")
    background.append(asyncio.create_task(asking))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@no_waiters_left
async def test_it_asks_and_waits(off):
    assert await off.ask(echo, Text(text="x")) == Text(text="x")


@no_waiters_left
async def test_it_forgets_a_request(off):
    await forget(off)


async def test_it_forgets_too_but_nobody_looks(off):
    await forget(off)


@no_waiters_left
async def test_it_fails_by_itself(off):
    raise LookupError("its own failure")


@no_waiters_left
def test_it_has_nothing_to_do_with_it():
    assert True
"""

IN_A_THREAD = """
import asyncio
import threading
import pytest
from offloop import Offloop, Settings
from program import Text, gate, hold

pytestmark = pytest.mark.usefixtures("no_waiters_left")


@pytest.fixture(scope="module")
def served():
    started, ended = threading.Event(), None

    async def serve():
        nonlocal ended
        ended = asyncio.Event()
        async with off:
            started.set()
            await ended.wait()

    off = Offloop("program", settings=Settings(threads=1, gc_freeze=False, drain_timeout=1))
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield off
    gate.set()
    off._runtime.loop.call_soon_threadsafe(ended.set)
    thread.join(10)


def asks(off):
    asking = threading.Thread(target=off.ask_sync, args=(hold, Text(text="x")), daemon=True)
    asking.start()
    while not off.gateway.waiters:
        asking.join(0.001)


def test_what_ends_a_moment_later_is_not_left_behind(served):
    asks(served)
    threading.Timer(0.05, gate.set).start()


def test_what_goes_on_is_left_behind(served):
    gate.clear()
    asks(served)
"""


@pytest.fixture
def program(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(program=PROGRAM)
    return pytester


def test_a_test_that_leaves_a_waiter_behind_fails_and_names_it(program: pytest.Pytester) -> None:
    program.makepyfile(test_program=TESTS)
    result = program.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_it_forgets_a_request*",
            "the test left waiters behind:",
            "  hold (queued, request_id label-7)",
            "*test_it_fails_by_itself*",
            "*LookupError: its own failure",
        ]
    )


def test_an_event_loop_in_another_thread_is_given_a_moment(program: pytest.Pytester) -> None:
    program.makepyfile(test_in_a_thread=IN_A_THREAD)
    result = program.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_what_goes_on_is_left_behind*", "the test left waiters behind:", "  hold (*)"])

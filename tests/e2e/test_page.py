"""The demo's page, as people use it: in a real browser, against a real server. And a browser's own `EventSource`."""

import json
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, Playwright, WebSocketRoute, expect, sync_playwright

from offloop.demo.page import HEADERS, SERVED
from tests.e2e.test_rloop import wait_unready
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.unit.demo.pdfs import encrypted, pdf

DEMO = "offloop.demo.app:app"
SLOW = "tests.e2e.programs.pages_app:app"
EVENTS = "tests.e2e.programs.events_app:app"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
PATIENCE = 10_000
"""Milliseconds in which the page must show what is expected."""
LARGEST = 32 * 2**20
"""Bytes of the largest file that the page sends."""
GONE = r"WebSocket connection to .* failed|Failed to load resource"
"""What a browser writes by itself when there is no server, or one that refuses."""
WATCH = "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        expect.set_options(timeout=PATIENCE)
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@dataclass
class Faults:
    """What the browser complained of. `expected`: a pattern of what it may, where a test takes the server away."""

    expected: str = "$^"
    all: list[str] = field(default_factory=list)

    def append(self, fault: str) -> None:
        self.all.append(fault)

    def unexpected(self) -> list[str]:
        return [fault for fault in self.all if not re.search(self.expected, fault)]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def visit(browser: Browser, faults: Faults) -> Iterator[Visit]:
    """Open a server's page, in a context of its own. At the end the browser must have had nothing to complain of."""
    contexts = []

    def visit(server: Server, path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(WATCH)
        if path != "/":  # no page of ours, and so without its icon
            context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
        page.on("request", lambda asked: None if ours(asked.url, server) else faults.append(f"asked for {asked.url}"))
        page.on("websocket", lambda line: None if ours(line.url, server) else faults.append(f"opened {line.url}"))
        page.goto(server.url + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults.unexpected() == []


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    with serving(DEMO, env=Mode.PROCESS.env(2)) as server:
        yield server


@pytest.fixture(scope="module")
def slow(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(SLOW, env=mode.env(2)) as server:
        yield server


@pytest.fixture(scope="module")
def threads(gate: Gate) -> Iterator[Server]:
    """For what is the same in every mode."""
    with serving(SLOW, env=Mode.THREAD.env(4)) as server:
        yield server


@pytest.fixture(scope="module")
def small(gate: Gate) -> Iterator[Server]:
    """With one loop, in a process that may be killed; it takes small frames only."""
    with serving(SLOW, "--ws-max-size", "5000", env=Mode.PROCESS.env(1)) as server:
        yield server


def ours(url: str, server: Server) -> bool:
    return url.startswith((f"{server.url}/", f"ws://127.0.0.1:{server.port}/", "data:", "blob:"))


def script(name: str, *pages: str, gate: str = "") -> FilePayload:
    """A file for the slow program."""
    said = json.dumps({"pages": pages, "name": gate})
    return {"name": name, "mimeType": "application/pdf", "buffer": said.encode()}


def file(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "application/pdf", "buffer": data}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#files", list(files))


def drop(page: Page, *files: FilePayload) -> None:
    """As from a file manager: onto the zone."""
    given = [[one["name"], list(one["buffer"])] for one in files]
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        given,
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def wait_state(card: Locator, state: str) -> None:
    expect(card).to_have_attribute("data-state", state)


def press(card: Locator, button: str) -> None:
    card.get_by_role("button", name=button).click()


def progress(card: Locator) -> float:
    share: float = card.get_by_role("progressbar").evaluate("(bar) => bar.value / bar.max")
    return share


def rows(card: Locator) -> Locator:
    return card.locator(".rows > li")


def sockets_of(page: Page) -> list[str]:
    """Where it has opened sockets, or tried to, from now on."""
    urls: list[str] = []
    page.on("websocket", lambda line: urls.append(line.url))
    return urls


def in_flight(server: Server) -> int:
    count: int = httpx.get(f"{server.url}/offloop/status").json()["endpoints"]["keywords"]["in_flight"]
    return count


# ---- reading


def test_pages_arrive_one_after_the_other_then_the_keywords(slow: Server, gate: Gate, visit: Visit) -> None:
    page, name = visit(slow), "one by one"
    choose(page, script("a.pdf", "First of all", "Then again", "At last", gate=name))
    document = card(page, "a.pdf")
    seen = []
    for number in (1, 2, 3):
        expect(rows(document)).to_have_count(number)
        wait_state(document, "reading")
        expect(document.locator(".status")).to_contain_text(f"page {number} of 3" if number < 3 else "keywords")
        expect(document.locator(".ranked > li")).to_have_count(0)
        seen.append(progress(document))
        gate.wait(name)
        gate.open(name)
    wait_state(document, "done")
    seen.append(progress(document))
    assert seen[-1] == 1
    assert all(earlier <= later for earlier, later in pairwise(seen))
    assert 0 < seen[0] < 1
    expect(document.locator(".ranked > li")).to_have_text(["waiting room 3 times"])
    expect(document.locator(".status")).to_contain_text("3 pages, 7 words")
    expect(page.get_by_role("status")).to_contain_text("a.pdf is read. It is about waiting room.")


def test_a_sample_document_is_read_by_one_press(demo: Server, visit: Visit) -> None:
    page = visit(demo)
    page.get_by_role("button", name="A Field Guide to Queues").click()
    document = card(page, "guide-to-queues.pdf")
    wait_state(document, "done")
    expect(document.locator(".status")).to_have_text("60 pages, 8,196 words")
    expect(document.locator(".ranked > li")).to_have_count(10)
    expect(document.locator(".ranked > li").first).to_have_text(re.compile("queue"))
    # A long document stays short in the tree: a part of its pages, and no text of those that are closed.
    expect(rows(document)).to_have_count(50)
    assert document.locator(".text").first.text_content() == ""
    press(document, "Show 10 more")
    expect(rows(document)).to_have_count(60)
    expect(document.locator("summary").nth(50)).to_be_focused()
    rows(document).nth(59).locator("summary").click()
    expect(document.locator(".text").nth(59)).to_have_text(re.compile(r".{200}", re.DOTALL))
    rows(document).nth(59).locator("summary").click()
    expect(document.locator(".text").nth(59)).to_have_text("")


def test_nothing_moves_while_pages_arrive(threads: Server, gate: Gate, visit: Visit) -> None:
    page = visit(threads)
    choose(page, script("a.pdf", *["A page of text"] * 12, gate="still"), script("b.pdf", "Another"))
    wait_state(card(page, "b.pdf"), "done")
    page.evaluate(
        """() => {
            window.moved = 0;
            const observer = new PerformanceObserver((list) => list.getEntries().forEach((e) => (moved += e.value)));
            observer.observe({ type: "layout-shift" });
        }"""
    )
    before = card(page, "b.pdf").bounding_box()
    for number in range(1, 13):
        expect(rows(card(page, "a.pdf"))).to_have_count(number)
        gate.wait("still")
        gate.open("still")
    wait_state(card(page, "a.pdf"), "done")
    assert card(page, "b.pdf").bounding_box() == before
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("moved") < 0.01


def test_markup_in_a_document_and_in_its_name_stays_text(threads: Server, visit: Visit) -> None:
    page = visit(threads)
    evil = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
    choose(page, script("<img src=x onerror='hit=3'>.pdf", evil))
    document = page.get_by_role("article")
    wait_state(document, "done")
    document.locator("summary").click()
    expect(document.locator(".text")).to_have_text(evil)
    expect(document.locator(".begins")).to_have_text(evil)
    expect(document.locator(".name")).to_have_text("<img src=x onerror='hit=3'>.pdf")
    assert document.locator("img, script").count() == 0
    assert page.evaluate("window.hit") is None


# ---- several, and ended early


def test_a_cancelled_document_says_so_and_the_socket_reads_the_next(slow: Server, gate: Gate, visit: Visit) -> None:
    page = visit(slow)
    sockets = sockets_of(page)
    choose(page, script("a.pdf", "One", "Two", gate="unwanted"))
    gate.wait("unwanted")
    expect(rows(card(page, "a.pdf"))).to_have_count(1)
    press(card(page, "a.pdf"), "Cancel")
    wait_state(card(page, "a.pdf"), "cancelled")
    expect(card(page, "a.pdf").locator(".status")).to_contain_text("cancelled after 1 page")
    gate.open("unwanted", "stop")  # whether or not it has heard by now
    choose(page, script("b.pdf", "Other"))
    wait_state(card(page, "b.pdf"), "done")
    # The one that was cancelled can be had after all.
    press(card(page, "a.pdf"), "Try again")
    for number in (1, 2):
        expect(rows(card(page, "a.pdf"))).to_have_count(number)
        gate.wait("unwanted")
        gate.open("unwanted")
    wait_state(card(page, "a.pdf"), "done")
    assert len(sockets) == 1


def test_more_than_one_socket_may_carry_wait_in_the_page_and_all_are_read(
    threads: Server, gate: Gate, visit: Visit
) -> None:
    page = visit(threads)
    sockets = sockets_of(page)
    drop(page, *(script(f"{number}.pdf", "One", gate="many") for number in range(20)))
    gate.wait("many", 4)
    expect(page.locator(".status", has_text="waiting for its turn")).to_have_count(4)
    assert in_flight(threads) == 16
    # One of those that wait here is cancelled without the server's hearing of it.
    press(card(page, "19.pdf"), "Cancel")
    wait_state(card(page, "19.pdf"), "cancelled")
    read = 0
    while read < 19:
        gate.wait("many")
        read += gate.open("many")
    expect(page.locator("[data-state=done]")).to_have_count(19)
    assert len(sockets) == 1
    page.get_by_role("button", name="Remove those that have ended").click()
    expect(page.get_by_role("article")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


# ---- problems


def test_what_is_wrong_with_a_file_is_said_with_what_to_do(demo: Server, visit: Visit) -> None:
    page = visit(demo)
    files = {
        "locked.pdf": (encrypted(pdf("secret"), user="secret"), "The PDF is encrypted.", "without a password"),
        "broken.pdf": (b"milk, bread", "The PDF cannot be read.", "save it again"),
        "blank.pdf": (pdf(""), "The PDF has no text.", "text recognition"),
        "empty.pdf": (b"", "The PDF has no text.", "text recognition"),
    }
    choose(page, *(file(name, data) for name, (data, _, _) in files.items()))
    choose(page, file("good.pdf", pdf("The event loop is the event loop.")))
    for name, (_, title, advice) in files.items():
        document = card(page, name)
        wait_state(document, "failed")
        expect(document.locator(".problem .title")).to_have_text(title)
        expect(document.locator(".problem .advice")).to_contain_text(advice)
        # Nothing would be gained by another try.
        expect(document.get_by_role("button", name="Try again")).to_have_count(0)
    wait_state(card(page, "good.pdf"), "done")
    expect(card(page, "good.pdf").locator(".phrase").first).to_have_text("event loop")
    press(card(page, "empty.pdf"), "Remove")
    expect(page.get_by_role("article")).to_have_count(4)


def test_a_file_that_no_server_would_take_is_not_sent_at_all(threads: Server, visit: Visit) -> None:
    page = visit(threads)
    sockets = sockets_of(page)
    page.evaluate(
        """(size) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(size)], "large.pdf"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        LARGEST + 1,
    )
    wait_state(card(page, "large.pdf"), "failed")
    expect(card(page, "large.pdf").locator(".problem")).to_contain_text(
        "The file is too large. Up to 32 MB can be sent."
    )
    expect(card(page, "large.pdf").locator(".advice")).to_contain_text("Split it")
    assert sockets == []


def test_members_of_a_problem_are_put_into_words(threads: Server, visit: Visit) -> None:
    page = visit(threads)
    choose(page, script("long.pdf", *["x"] * 1200))
    wait_state(card(page, "long.pdf"), "failed")
    problem = card(page, "long.pdf").locator(".problem")
    expect(problem).to_contain_text("It has 1,200 pages, and 1,000 may be read. Split it.")
    expect(problem.locator(".detail")).to_have_text("")  # which the server made of the title


def test_a_file_that_cannot_be_fetched_is_a_problem_of_its_own(threads: Server, visit: Visit, faults: Faults) -> None:
    faults.expected = GONE
    page = visit(threads)
    page.route("**/samples/*", lambda route: route.abort())
    page.get_by_role("button", name="A Note on Waiting").click()
    wait_state(card(page, "note-on-waiting.pdf"), "failed")
    expect(card(page, "note-on-waiting.pdf").locator(".problem")).to_contain_text("The file cannot be read.")
    choose(page, script("b.pdf", "Other"))
    wait_state(card(page, "b.pdf"), "done")


@pytest.mark.parametrize(
    ("env", "title"),
    [
        ({"TEST_IN_FLIGHT": "1"}, "The endpoint is busy."),
        ({"OFFLOOP_QUEUE_LIMIT": "1"}, "The queue is full."),
    ],
)
def test_what_is_refused_under_load_says_when_to_try_again_and_trying_again_works(
    gate: Gate, visit: Visit, env: dict[str, str | None], title: str
) -> None:
    with serving(SLOW, env=Mode.THREAD.env(1) | env) as server:
        page = visit(server)
        names = ["0.pdf", "1.pdf"] if title == "The endpoint is busy." else ["0.pdf", "1.pdf", "2.pdf"]
        choose(page, script(names[0], "One", gate="load"))
        gate.wait("load")
        choose(page, *(script(name, "One") for name in names[1:]))
        refused = card(page, names[-1])
        wait_state(refused, "failed")
        expect(refused.locator(".problem .title")).to_have_text(title)
        again = refused.get_by_role("button", name="Try again")
        expect(again).to_have_text(re.compile(r"Try again in \d+ s"))
        expect(again).to_be_disabled()
        gate.open("load")
        wait_state(card(page, names[0]), "done")
        expect(refused.locator(".advice")).to_contain_text("nothing is wrong with the file")
        expect(again).to_be_enabled()
        expect(again).to_have_text("Try again")
        again.click()
        wait_state(refused, "done")
        expect(refused.locator(".problem")).to_be_hidden()


def test_a_worker_that_is_lost_costs_one_document_and_another_try_reads_it(
    small: Server, gate: Gate, visit: Visit
) -> None:
    page = visit(small)
    choose(page, script("a.pdf", "One", gate="fatal"))
    gate.wait("fatal")
    gate.open("fatal", "die")
    document = card(page, "a.pdf")
    wait_state(document, "failed")
    expect(document.locator(".problem .title")).to_have_text("The worker was lost.")
    expect(document.locator(".status")).to_contain_text("stopped after 1 page")
    press(document, "Try again")
    gate.wait("fatal")
    gate.open("fatal")
    wait_state(document, "done")
    expect(page.locator("#connection")).to_be_hidden()


def test_a_frame_that_the_server_finds_too_large_is_told_of_the_file_it_was(
    small: Server, gate: Gate, visit: Visit
) -> None:
    page = visit(small)
    choose(page, script("small.pdf", "One", "Two", gate="beside"))
    gate.wait("beside")
    expect(rows(card(page, "small.pdf"))).to_have_count(1)
    choose(page, script("large.pdf", "x" * 5000))
    wait_state(card(page, "large.pdf"), "failed")
    expect(card(page, "large.pdf").locator(".title")).to_have_text("The file is too large.")
    wait_state(card(page, "small.pdf"), "failed")
    expect(card(page, "small.pdf").locator(".title")).to_have_text("The connection was closed.")
    gate.open("beside", "stop")
    press(card(page, "small.pdf"), "Try again")
    for number in (1, 2):
        expect(rows(card(page, "small.pdf"))).to_have_count(number)
        gate.wait("beside")
        gate.open("beside")
    wait_state(card(page, "small.pdf"), "done")
    expect(page.locator("#connection")).to_be_hidden()


# ---- the connection


def test_a_drain_ends_what_is_read_and_connecting_again_finds_the_next_server(gate: Gate, visit: Visit) -> None:
    with serving(SLOW, env=Mode.PROCESS.env(1)) as server:
        page = visit(server)
        choose(page, script("a.pdf", "One", gate="drained"))
        gate.wait("drained")
        server.signal(signal.SIGTERM)
        wait_unready(server)
        # What comes now is refused by itself; what was begun is read to its end.
        choose(page, script("late.pdf", "One"))
        wait_state(card(page, "late.pdf"), "failed")
        expect(card(page, "late.pdf").locator(".title")).to_have_text("The service is shutting down.")
        wait_state(card(page, "a.pdf"), "reading")
        gate.open("drained")
        wait_state(card(page, "a.pdf"), "done")
        expect(page.locator("#connection")).to_contain_text("The server is restarting.")
        server.wait()
    with serving(SLOW, "--port", str(server.port), env=Mode.THREAD.env(1)):
        page.get_by_role("button", name="Connect again").click()
        expect(page.locator("#connection")).to_be_hidden()
        expect(page.get_by_role("status")).to_contain_text("Connected again.")
        press(card(page, "late.pdf"), "Try again")
        wait_state(card(page, "late.pdf"), "done")


def test_a_server_that_takes_no_work_is_told_from_one_that_is_gone(gate: Gate, visit: Visit, faults: Faults) -> None:
    faults.expected = GONE
    with serving(SLOW, env=Mode.THREAD.env(1)) as server:
        page = visit(server)
        held = script("other", "One", gate="elsewhere")["buffer"]
        other = threading.Thread(
            target=httpx.post, args=(f"{server.url}/documents/keywords",), kwargs={"content": held}
        )
        other.start()
        gate.wait("elsewhere")
        server.signal(signal.SIGTERM)
        wait_unready(server)
        choose(page, script("a.pdf", "One"))
        notice = page.locator("#connection")
        expect(notice).to_contain_text("The server takes no work at the moment.")
        expect(card(page, "a.pdf").locator(".status")).to_contain_text("waiting for the connection")
        gate.open("elsewhere")
        other.join()
        server.wait()
        expect(notice).to_contain_text("The server cannot be reached.")
        press(card(page, "a.pdf"), "Cancel")
        wait_state(card(page, "a.pdf"), "cancelled")


def test_a_server_that_refuses_the_handshake_is_told_from_one_that_is_not_ready(
    gate: Gate, visit: Visit, faults: Faults
) -> None:
    faults.expected = GONE
    with serving(SLOW, env=Mode.THREAD.env(1, ws_origins="https://example.org")) as server:
        page = visit(server)
        choose(page, script("a.pdf", "One"))
        expect(page.locator("#connection")).to_contain_text("The server refuses the connection.")
        expect(page.get_by_role("button", name="Try now")).to_be_visible()
        press(card(page, "a.pdf"), "Cancel")
        wait_state(card(page, "a.pdf"), "cancelled")
        # With nothing to send there is no next attempt.
        expect(page.get_by_role("button", name="Connect again")).to_be_visible()


def test_a_close_is_put_into_words(threads: Server, visit: Visit) -> None:
    page = visit(threads)
    closes = {
        1008: ("what was sent is not read", "The server ended the connection. It says: what was sent is not read."),
        1011: ("", "The connection was lost."),
        1012: ("draining", "The server is restarting."),
        1013: ("queue-full", "The server takes no work at the moment."),
    }
    # A server that closes at the first frame, with codes that the real one has no cause for.
    codes = iter(closes)

    def closing(line: WebSocketRoute) -> None:
        code = next(codes)
        line.on_message(lambda _: line.close(code=code, reason=closes[code][0]))

    page.route_web_socket("**/documents/keywords/stream", closing)
    page.reload()
    for code, (_, told) in closes.items():
        choose(page, script(f"{code}.pdf", "One"))
        wait_state(card(page, f"{code}.pdf"), "failed")
        expect(card(page, f"{code}.pdf").locator(".advice")).to_contain_text("Try again")
        expect(page.locator("#connection")).to_contain_text(told)
        expect(page.get_by_role("button", name="Connect again")).to_be_visible()


def test_a_server_that_dies_loses_what_it_read_and_nobody_hammers_at_its_door(
    gate: Gate, visit: Visit, faults: Faults
) -> None:
    faults.expected = GONE
    with serving(SLOW, env=Mode.THREAD.env(1)) as server:
        page = visit(server)
        page.clock.install()
        choose(page, script("a.pdf", "One", gate="dying"))
        gate.wait("dying")
        expect(rows(card(page, "a.pdf"))).to_have_count(1)
        server.kill()
        wait_state(card(page, "a.pdf"), "failed")
        expect(card(page, "a.pdf").locator(".title")).to_have_text("The connection was lost.")
        # Nothing waits to be sent, so nobody asks for a connection.
        tried = sockets_of(page)
        page.clock.run_for(60_000)
        expect(page.get_by_role("button", name="Connect again")).to_be_visible()
        assert tried == []

        choose(page, script("b.pdf", "One"))
        for attempts in range(1, 6):
            expect(page.get_by_role("button", name="Try now")).to_be_visible()
            assert len(tried) == attempts
            # Time is the test's: however much of it goes by, each wait is a timer of its own.
            with page.expect_event("websocket"):
                page.clock.run_for(15_000)
        expect(page.get_by_role("button", name="Connect again")).to_be_visible()
        page.clock.run_for(60_000)
        assert len(tried) == 6
        expect(card(page, "b.pdf").locator(".status")).to_contain_text("waiting for the connection")
    with serving(SLOW, "--port", str(server.port), env=Mode.THREAD.env(1)):
        page.get_by_role("button", name="Connect again").click()
        wait_state(card(page, "b.pdf"), "done")  # it was never lost


# ---- for everybody


def tab_to(page: Page, what: Locator) -> None:
    """By keyboard; fails where it cannot be reached so."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if what.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {what}")


def outlined(page: Page) -> bool:
    """Whether what has the focus shows it; the file input, by the zone around it."""
    shown: bool = page.evaluate(
        """() => [document.activeElement, document.activeElement.closest(".drop")].some(
            (element) => element && getComputedStyle(element).outlineStyle === "solid")"""
    )
    return shown


def test_everything_can_be_done_by_keyboard(threads: Server, gate: Gate, visit: Visit) -> None:
    page = visit(threads)
    # From the beginning, since the browser is told of it only some time later that a test will choose the files.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    assert outlined(page)
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([script("a.pdf", "One", gate="keys")])
    gate.wait("keys")
    document = card(page, "a.pdf")
    expect(rows(document)).to_have_count(1)

    tab_to(page, document.get_by_role("button", name="Cancel"))
    assert outlined(page)
    page.keyboard.press("Space")
    wait_state(document, "cancelled")
    expect(document).to_be_focused()  # what had the focus is gone, and the next key finds its way from here
    gate.open("keys", "stop")
    tab_to(page, document.get_by_role("button", name="Try again"))
    page.keyboard.press("Enter")
    gate.wait("keys")
    gate.open("keys")
    wait_state(document, "done")

    tab_to(page, document.locator("summary"))
    assert outlined(page)
    page.keyboard.press("Enter")
    expect(document.locator(".text")).to_have_text("One")
    tab_to(page, page.get_by_role("link", name="The API"))  # nothing holds the focus
    page.keyboard.press("Shift+Tab")
    expect(document.locator("summary")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(document.get_by_role("button", name="Remove")).to_be_focused()
    page.keyboard.press("Enter")
    expect(document).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


CONTRAST = """(selectors) => {
    const part = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(part);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        const { backgroundColor } = getComputedStyle(element);
        return backgroundColor === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : backgroundColor;
    };
    return selectors.map((selector) => {
        const element = document.querySelector(selector);
        const [one, other] = [light(getComputedStyle(element).color), light(behind(element))];
        return [selector, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
    });
}"""
"""Contrast of text with what is behind it (WCAG 2.2, "contrast ratio" and "relative luminance")."""

TEXTS = (
    "h1", ".top p", ".call u", ".hint", ".samples button", ".name", ".status", ".button", ".title", ".advice", "h4",
    ".begins", ".words", ".phrase", ".often", "footer", "footer a",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_can_be_read_in_light_and_in_dark_and_at_any_width(
    threads: Server, visit: Visit, scheme: str, width: int
) -> None:
    page = visit(threads, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    name = "a-name-that-" + "goes-on-and-" * 20 + "ends.pdf"
    choose(page, script("a.pdf", "word " * 300, "x" * 3000), script(name, *["x"] * 1200))
    wait_state(card(page, "a.pdf"), "done")
    wait_state(card(page, name), "failed")
    card(page, "a.pdf").locator("summary").nth(1).click()
    expect(card(page, "a.pdf").locator(".text").nth(1)).not_to_have_text("")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 128) == (scheme == "dark")
    measured: Sequence[tuple[str, float]] = page.evaluate(CONTRAST, list(TEXTS))
    assert {text: ratio for text, ratio in measured if ratio < 4.5} == {}


def test_the_pages_files_are_served_with_their_headers_and_nothing_else_is(threads: Server) -> None:
    assert {"/", "/page/page.css", "/page/page.js", "/page/socket.js", "/samples/note-on-waiting.pdf"} <= {*SERVED}
    for path, file in SERVED.items():
        answer = httpx.get(threads.url + path)
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert httpx.head(threads.url + path).status_code == 200
    assert httpx.get(f"{threads.url}/").headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/page/__init__.py", "/page/", "/page/..%2fapp.py", "/samples/other.pdf"):
        assert httpx.get(threads.url + path).status_code == 404
    assert not {*httpx.get(f"{threads.url}/openapi.json").json()["paths"]} & {*SERVED}


# ---- a browser's own client of server-sent events

LISTEN = """([url, closes]) => {
    window.heard = [];
    window.opened = 0;
    window.source = new EventSource(url);
    source.onopen = () => (opened += 1);
    for (const kind of ["chunk", "progress", "reply", "problem"]) {
        source.addEventListener(kind, ({ data }) => {
            heard.push([kind, JSON.parse(data)]);
            if (closes && (kind === "reply" || kind === "problem")) source.close();
        });
    }
}"""
CLOSED = "source.readyState === EventSource.CLOSED"


def test_an_event_source_hears_chunks_in_order_then_the_reply(gate: Gate, visit: Visit) -> None:
    with serving(EVENTS, env=Mode.PROCESS.env(1)) as server:
        page = visit(server, "/offloop/livez")
        page.evaluate(LISTEN, ["/tables?name=source&count=3", True])
        for number in (1, 2, 3):
            page.wait_for_function("(count) => heard.length === count", arg=number)
            gate.wait(f"source {number}")
            gate.open(f"source {number}")
        page.wait_for_function(CLOSED)
        chunks = [["chunk", {"number": number, "text": ""}] for number in (1, 2, 3)]
        assert page.evaluate("heard") == [*chunks, ["reply", {"rows": 3}]]
        assert page.evaluate("opened") == 1


def test_an_event_source_that_asks_again_in_a_drain_is_refused_and_gives_up(
    gate: Gate, visit: Visit, faults: Faults
) -> None:
    faults.expected = GONE
    with serving(EVENTS, env=Mode.THREAD.env(2)) as server:
        page = visit(server, "/offloop/livez")
        page.evaluate(LISTEN, ["/tables?name=again&count=1", False])
        gate.wait("again 1")
        # Another request, so that the drain lasts as long as the test wants.
        other = threading.Thread(target=httpx.get, args=(f"{server.url}/tables?name=lasting&count=1",))
        other.start()
        gate.wait("lasting 1")
        server.signal(signal.SIGTERM)
        wait_unready(server)
        gate.open("again 1")
        page.wait_for_function(CLOSED)
        assert page.evaluate("heard.map(([kind]) => kind)") == ["chunk", "reply"]
        assert page.evaluate("opened") == 1
        gate.open("lasting 1")
        other.join()
    assert any("503" in fault for fault in faults.all)

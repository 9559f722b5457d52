"""A mixed load on the end-to-end program: callers of every kind, at once, each seeded.

Owns what callers do. It asserts only what holds for every answer; what the server made of all that is for its event
log to say.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from tests.support.gate import Gate
from tests.support.wire import Answer, Wire

PASSING, LATE = "passing", "late"
"""What the nodes of this load are held under; let on every few milliseconds while the load's `keep` runs."""
EVERY = 0.015
OVERLOAD = {"queue-full", "endpoint-busy"}
OVER = {"draining", "drain-cut"}


class Over(Exception):
    """The server is going: there is nothing more to ask."""


class Caller:
    """One thread of the load, with one connection that it keeps and many that it does not."""

    def __init__(self, load: "Load", number: int) -> None:
        self.load = load
        self.random = Random(f"{load.seed} {number}")
        self._kept: Wire | None = None

    def run(self) -> None:
        ways: list[tuple[Callable[[], None], int]] = [
            (self.echo, 30), (self.misspell, 4), (self.refuse, 4), (self.fail, 4), (self.hurry, 4), (self.leave, 6),
            (self.crowd, 2), (self.upload_slowly, 3), (self.never_upload, 1), (self.send_what_is_not_taken, 3),
        ]  # fmt: skip
        actions, weights = zip(*ways, strict=True)
        try:
            while not self.load.stopped:
                for act in self.random.choices(actions, weights, k=20):
                    act()
        except (Over, OSError) as end:
            if not self.load.ending:
                self.load.faults.append(repr(end))
        except Exception as fault:  # noqa: BLE001  (a thread's fault is told by the test)
            self.load.faults.append(repr(fault))
        finally:
            if self._kept is not None:
                self._kept.close()

    # ---- one request and its answer

    def ask(self, path: str, message: Any, wanted: set[str], **headers: str) -> Answer:
        """On the kept connection; `wanted` are the reasons that may be (`ok`: none), beside those of overload."""
        if self._kept is None:
            self._kept = Wire(self.load.port)
        body = json.dumps(message).encode()
        sent = {"content_type": "application/json", **headers}
        self._kept.head(f"POST {path}", content_length=str(len(body)), **sent)
        self._kept.send(body)
        answer = self._kept.answer()
        if answer.headers.get("connection") == "close":
            self._kept.close()
            self._kept = None
        self.judge(answer, wanted)
        return answer

    def judge(self, answer: Answer, wanted: set[str]) -> None:
        reason = "ok" if answer.status in (200, 204) else answer.json().get("reason", "invalid-payload")
        self.load.count(reason)
        if reason in OVER:
            raise Over(reason)
        assert reason in wanted | OVERLOAD, (answer, wanted)

    # ---- what callers do

    def echo(self) -> None:
        n, size = self.random.randrange(10**9), self.random.choice([0, 10, 1000])
        answer = self.ask("/echo", {"n": n, "text": "x" * size}, {"ok"}, x_request_id="the-same")
        if answer.status == 200:
            assert answer.json() == {"n": n, "size": size, "request_id": "the-same"}

    def misspell(self) -> None:
        self.ask("/echo", {"n": "many"}, {"invalid-payload"})

    def refuse(self) -> None:
        self.ask("/refused", {"how": self.random.choice(["pages", "gone"])}, {"too-many-pages", "gone"})

    def fail(self) -> None:
        how = self.random.choice(["raise", "exit", "base", "silence"])
        self.ask("/failing", {"how": how}, {"node-failed", "no-reply"})

    def hurry(self) -> None:
        """A little time, and a node that may need more."""
        seconds = f"{self.random.uniform(0.005, 0.06):.3f}"
        wanted = {"ok", "deadline-exceeded", "expired-in-queue", "upload-timeout"}
        self.ask("/brief", {"name": LATE}, wanted, x_request_timeout=seconds)

    def leave(self) -> None:
        """Go away at a random moment: in the head, in the body, while it waits or while it runs."""
        path, message = self.random.choice(
            [("/echo", {"n": 1}), ("/patient", {"name": PASSING}), ("/steadfast", {"name": PASSING})]
        )
        body = json.dumps(message)
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        whole = f"{head}\r\n\r\n{body}".encode()
        with Wire(self.load.port) as wire:
            wire.send(whole[: self.random.choice([len(whole), self.random.randint(1, len(whole))])])
            wire.socket.settimeout(self.random.uniform(0.0005, 0.04))
            try:
                wire.socket.recv(1)
            except TimeoutError:
                return  # the usual case: nothing had come yet

    def crowd(self) -> None:
        """More at once than there is room for."""
        wires: list[Wire] = []
        gated = self.random.choice([0, 0.3, 1])
        try:
            for number in range(24):
                wires.append(Wire(self.load.port))
                path = "/gated" if self.random.random() < gated else "/echo"
                wires[-1].post(path, {"n": number, "name": PASSING})
            for wire in wires:
                self.judge(wire.answer(), {"ok"})
        finally:
            for wire in wires:
                wire.close()

    def upload_slowly(self) -> None:
        with Wire(self.load.port) as wire:
            wire.head("POST /echo", content_type="application/json", content_length="8")
            for byte in b'{"n": 5}':
                wire.send(bytes([byte]))
                if self.random.random() < 0.3:
                    self.echo()
            self.judge(wire.answer(), {"ok"})

    def never_upload(self) -> None:
        with Wire(self.load.port) as wire:
            headers = {"content_type": "application/json", "content_length": "100", "x_request_timeout": "0.05"}
            wire.head("POST /echo", **headers)
            wire.send(b"{")
            self.judge(wire.answer(), {"upload-timeout"})

    def send_what_is_not_taken(self) -> None:
        kind = self.random.choice(["image/png", "application/pdf"])
        length = str(2**20 + 1) if kind == "application/pdf" else "10"
        with Wire(self.load.port) as wire:
            wire.head("POST /blobs", content_type=kind, content_length=length)
            self.judge(wire.answer(), {"unsupported-media-type", "payload-too-large"})


class Load:
    """Callers that go on until they are stopped or the server goes; a context manager.

    Attributes:
        answers: how many there were, by reason (`ok`: none).
        faults: what no caller should have met.
        ending: set it before the server is told to go.
    """

    def __init__(self, port: int, gate: Gate, *, callers: int, seed: int) -> None:
        self.port = port
        self.seed = seed
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ending = False
        self.stopped = False
        self._gate = gate
        self._counted = threading.Condition()
        self._kept = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._threads = [threading.Thread(target=Caller(self, n).run, daemon=True) for n in range(callers)]

    def __enter__(self) -> "Load":
        for thread in (self._keeper, *self._threads):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending = self.stopped = True
        self._join()
        self.hold()

    def hold(self) -> None:
        """From now on nothing that stands at the gate is let on."""
        self._kept.set()
        self._keeper.join()

    def finish(self) -> None:
        """Until every caller has had its last answer."""
        self.stopped = True
        self._join()

    def _join(self, timeout: float = 20.0) -> None:
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a caller was never answered"

    def count(self, reason: str) -> None:
        with self._counted:
            self.answers[reason] += 1
            self._counted.notify_all()

    def wait(self, answers: int, timeout: float = 30.0) -> None:
        """Until there were so many answers, or something went wrong."""
        with self._counted:
            done = self._counted.wait_for(lambda: self.answers.total() >= answers or self.faults, timeout)
        assert done, f"only {self.answers.total()} answers in {timeout} s"

    def _keep(self) -> None:
        while not self._kept.wait(EVERY):
            self._gate.open(PASSING)
            self._gate.open(LATE)

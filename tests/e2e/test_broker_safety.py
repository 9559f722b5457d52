"""Somebody else on the broker: what they write is neither run nor believed, and they learn no secret of ours.

Whoever attacks here has the whole Redis, and not the key.
"""

import json
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import msgspec
import pytest

from offloop.messages import Outcome
from offloop.transports.parcels import BODY, OVERHEAD, SIGNATURE, Cancel, Parcel, orders, parcels, returns
from offloop.transports.redis.names import Names
from offloop.transports.redis.staff import announcement
from offloop.transports.redis.wire import Line, ReplyError, address_of
from tests.support.broker import Broker, broker
from tests.support.command import Worker, offloop, working
from tests.support.daemon import free_port
from tests.support.gate import Gate
from tests.support.server import ROOT, Server, serving

APP = "tests.e2e.programs.guarded_app:app"
PACKAGE = "tests.e2e.programs.guarded"
KEY = "a key that nobody else has"
NAMES = Names("offloop")
REQUESTS = NAMES.requests("default")
MIB = 2**20
WITHIN = 40.0

Env = dict[str, str | None]


class Guarded(NamedTuple):
    """One web process and one worker that sign."""

    broker: Broker
    web: Server
    worker: Worker
    calls: ThreadPoolExecutor

    def wait_ready(self) -> None:
        """Until the worker is, and the web process knows."""
        self.worker.wait_probe("/readyz", 200)
        self.broker.until(lambda _: self.status()["workers"]["idle"] > 0, "PING")

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{self.web.url}/offloop/status").json()
        return told

    def say(self, text: str, *, held: bool = False, timeout: float | None = None) -> "Future[httpx.Response]":
        """A caller in a thread."""
        headers = {} if timeout is None else {"X-Request-Timeout": str(timeout)}
        asked = {"text": text, "held": held}
        return self.calls.submit(httpx.post, f"{self.web.url}/say", json=asked, headers=headers, timeout=WITHIN)

    def entry(self) -> tuple[bytes, ...]:
        """The fields of the request that is being worked on."""
        ((_, fields),) = self.broker.cli("XRANGE", REQUESTS, "-", "+")
        return tuple(fields)

    def inbox(self) -> str:
        (name,) = self.broker.keys("offloop:inbox:*")
        return name

    def put(self, stream: str, *fields: str | bytes) -> None:
        self.broker.cli("XADD", stream, "*", *fields)

    def refused(self) -> int:
        count: int = self.status()["entries_refused"]
        return count

    def answers(self) -> None:
        """A request of our own goes all the way; whatever lay before it has been dealt with then."""
        word = uuid4().hex
        answer = self.say(word).result(WITHIN)
        assert (answer.status_code, word in answer.text) == (200, True), answer.text + self.worker.log


def env_of(url: str, **more: str | None) -> Env:
    return {"OFFLOOP_BROKER_URL": url, "OFFLOOP_SIGNING_KEY": KEY, **more}


WEB = {"OFFLOOP_MODE": "cluster"}


@pytest.fixture(scope="module")
def guarded(gate: Gate) -> Iterator[Guarded]:
    with (
        broker() as redis,
        serving(APP, env=env_of(redis.url, **WEB)) as web,
        working(PACKAGE, "--concurrency", "1", env=env_of(redis.url)) as worker,
        ThreadPoolExecutor(8) as calls,
    ):
        whole = Guarded(redis, web, worker, calls)
        whole.wait_ready()
        yield whole


@contextmanager
def held(guarded: Guarded, gate: Gate) -> "Iterator[tuple[str, Future[httpx.Response]]]":
    """A request that is being worked on: its word, and its caller, who is answered in the end whatever was tried."""
    word = uuid4().hex
    caller = guarded.say(word, held=True)
    gate.wait(word)
    yield word, caller
    gate.open(word)
    assert caller.result(WITHIN).json() == {"text": word, "cancelled": False}


def runs(gate: Gate, word: str) -> int:
    return gate.notes.count(f"say {word}")


# ---- requests


def forged(fields: tuple[bytes, ...], word: str) -> Parcel:
    """A request of ours, with another word and another id."""
    real = parcels((KEY,), MIB).read(REQUESTS, fields)
    payload = json.dumps({"text": word}).encode()
    envelope = msgspec.structs.replace(real.envelope, payload=payload, rid=f"{real.envelope.rid[:-4]}beef")
    return msgspec.structs.replace(real, envelope=envelope)


FORGERIES: dict[str, tuple[Callable[[Parcel, bytes], tuple[str | bytes, ...]], str]] = {
    "unsigned": (lambda parcel, _: parcels((), MIB).write(REQUESTS, parcel), "it is not signed"),
    "another's key": (lambda parcel, _: parcels(("guess",), MIB).write(REQUESTS, parcel), "does not fit"),
    "altered": (lambda parcel, real: (*parcels((), MIB).write(REQUESTS, parcel), SIGNATURE, real), "does not fit"),
    "of another namespace": (lambda parcel, _: parcels((KEY,), MIB).write("b:requests:default", parcel), "not fit"),
    "of another direction": (lambda parcel, _: returns((KEY,), MIB).write(REQUESTS, parcel), "does not fit"),  # type: ignore[arg-type]
    "too large": (lambda _, real: (BODY, b"\0" * (2 * MIB + OVERHEAD), SIGNATURE, real), "it is larger"),
    "nothing": (lambda *_: ("a", "b"), "it is not signed"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_request_never_runs(guarded: Guarded, gate: Gate, forgery: str) -> None:
    forge, why = FORGERIES[forgery]
    with held(guarded, gate):
        fields = guarded.entry()
        word = uuid4().hex
        guarded.put(REQUESTS, *forge(forged(fields, word), fields[3]))
    guarded.answers()
    assert not runs(gate, word)
    assert guarded.broker.cli("XLEN", REQUESTS) == 0
    guarded.worker.wait_line(rf"a request is dropped: .*{why}")
    guarded.worker.wait_probe("/metrics", 200, r"^offloop_entries_refused_total [1-9]")


def test_a_request_that_is_put_there_again_runs_once(guarded: Guarded, gate: Gate) -> None:
    with held(guarded, gate) as (word, _):
        fields = guarded.entry()
        guarded.put(REQUESTS, *fields)
    guarded.answers()
    guarded.put(REQUESTS, *fields)  # after its end, too
    guarded.answers()
    assert runs(gate, word) == 1
    guarded.worker.wait_line("a request is dropped: it was taken once before")


def test_a_request_that_is_put_there_after_its_deadline_does_not_run(guarded: Guarded, gate: Gate) -> None:
    word = uuid4().hex
    caller = guarded.say(word, held=True, timeout=0.5)
    gate.wait(word)
    fields = guarded.entry()
    assert caller.result(WITHIN).status_code == 504
    gate.open(word)
    guarded.answers()
    for seen in guarded.broker.keys("offloop:seen:*"):
        guarded.broker.cli("DEL", seen)
    guarded.put(REQUESTS, *fields)
    guarded.answers()
    assert runs(gate, word) == 1


def refusals(worker: Worker) -> float:
    """How many it has counted."""
    (told,) = re.findall(r"^offloop_entries_refused_total (\S+)", worker.probe("/metrics")[1], re.MULTILINE)
    return float(told)


def test_a_request_of_long_ago_is_refused_counted_and_told(guarded: Guarded, gate: Gate) -> None:
    word = uuid4().hex
    with held(guarded, gate):
        parcel = forged(guarded.entry(), word)
    before = refusals(guarded.worker)
    seconds, _ = guarded.broker.cli("TIME")
    old = msgspec.structs.replace(parcel, expires=int(seconds) - 9)
    guarded.put(REQUESTS, *parcels((KEY,), MIB).write(REQUESTS, old))
    guarded.worker.wait_line("a request is dropped: its time was over before it came")
    guarded.broker.until(lambda _: refusals(guarded.worker) > before, "PING")
    assert not runs(gate, word)


def test_a_request_that_no_worker_has_is_gone_at_its_deadline(guarded: Guarded, gate: Gate) -> None:
    with held(guarded, gate):
        parcel = forged(guarded.entry(), "x")
    seconds, _ = guarded.broker.cli("TIME")
    late = msgspec.structs.replace(parcel, fingerprint="of an older program", expires=int(seconds) + 1.5)
    guarded.put(REQUESTS, *parcels((KEY,), MIB).write(REQUESTS, late))
    guarded.broker.until(lambda length: length == 0, "XLEN", REQUESTS)  # it was handed on until then


# ---- replies


def test_a_forged_reply_answers_nobody(guarded: Guarded, gate: Gate) -> None:
    before, inbox = guarded.refused(), guarded.inbox()
    with held(guarded, gate):
        rid = parcels((KEY,), MIB).read(REQUESTS, guarded.entry()).envelope.rid
        said = Outcome(rid, payload=b'{"text":"forged","cancelled":false}')
        unsigned = returns((), MIB).write(inbox, said)
        signature = returns((KEY,), MIB).write(inbox, Outcome("another"))[3]
        for fields in (
            unsigned,
            returns(("guess",), MIB).write(inbox, said),
            (*unsigned, SIGNATURE, signature),
            returns((KEY,), MIB).write("offloop:inbox:another", said),
            (BODY, b"\0" * (16 * MIB + OVERHEAD + 1), SIGNATURE, signature),
        ):
            guarded.put(inbox, *fields)
    assert guarded.refused() == before + 5
    guarded.web.wait_line("an entry of this process' inbox is dropped: it is not signed")
    assert "forged" not in guarded.web.log


def late_replies(web: Server) -> float:
    found = re.search(r"^offloop_late_replies_total (\S+)$", httpx.get(f"{web.url}/offloop/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def test_a_reply_that_is_put_there_again_answers_nobody(guarded: Guarded, gate: Gate) -> None:
    guarded.answers()
    ((_, reply),) = guarded.broker.cli("XREVRANGE", guarded.inbox(), "+", "-", "COUNT", 1)
    late = late_replies(guarded.web)
    with held(guarded, gate):
        guarded.put(guarded.inbox(), *reply)
        guarded.broker.until(lambda _: late_replies(guarded.web) > late, "PING")


def test_a_stream_message_that_is_put_there_again_is_told_once(guarded: Guarded, gate: Gate) -> None:
    before, word = guarded.refused(), uuid4().hex
    url, accept = f"{guarded.web.url}/tell", {"Accept": "text/event-stream"}
    with httpx.stream("POST", url, json={"text": word}, headers=accept, timeout=WITHIN) as answer:
        lines = answer.iter_lines()
        told = next(line for line in lines if line.startswith("data:"))
        gate.wait(word)
        for _, fields in guarded.broker.cli("XRANGE", guarded.inbox(), "-", "+"):
            guarded.put(guarded.inbox(), *fields)
        guarded.broker.until(lambda _: guarded.refused() > before, "PING")
        gate.open(word)
        rest = [line for line in lines if line.startswith("data:")]
    assert json.loads(told.removeprefix("data:")) == {"text": word}
    assert [json.loads(line.removeprefix("data:")) for line in rest] == [{"text": word, "cancelled": False}]


def test_a_forged_order_cancels_nothing(guarded: Guarded, gate: Gate) -> None:
    (stream,) = guarded.broker.keys("offloop:orders:*")
    with held(guarded, gate):
        rid = parcels((KEY,), MIB).read(REQUESTS, guarded.entry()).envelope.rid
        worker = f"{stream.removeprefix('offloop:orders:')}/worker-0"
        guarded.put(stream, *orders(()).write(stream, Cancel(worker, rid)))
        guarded.worker.wait_line("an order to this supervisor is dropped: it is not signed")


# ---- keys that change


class Pairs:
    """Web processes and workers, a pair by each name, of which each may be replaced while requests go on."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self.running: dict[str, tuple[Server, Worker]] = {}
        self.over = threading.Event()
        self._url = url

    def start(self, name: str, keys: str) -> None:
        """In the place of the pair of that name, which drains once the new one serves."""
        env = {**env_of(self._url), "OFFLOOP_SIGNING_KEY": keys}
        web = Server(APP, env={**env, **WEB}).__enter__()
        worker = Worker(PACKAGE, "--concurrency", "1", env=env)
        before, self.running[name] = self.running.get(name, ()), (web, worker)
        worker.wait_probe("/readyz", 200)
        for one in before:
            one.process.terminate()
            assert one.wait() in (0, -signal.SIGTERM)

    def ask(self, name: str) -> None:
        url = self.running[name][0].url
        answer = httpx.post(f"{url}/say", json={"text": "x"}, timeout=WITHIN)
        if answer.status_code != 503 or answer.json()["reason"] != "draining":
            self.statuses.append(answer.status_code)

    def load(self, name: str) -> None:
        while not self.over.is_set():
            with suppress(httpx.TransportError):  # it has left: as behind a load balancer, the next is asked
                self.ask(name)

    def every(self) -> list[Server]:
        return [one for pair in self.running.values() for one in pair]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_keys_change_in_three_rounds_and_nothing_is_lost(gate: Gate) -> None:
    with broker() as redis, ThreadPoolExecutor(4) as calls:
        pairs = Pairs(redis.url)
        try:
            pairs.start("a", "old")
            pairs.start("b", "old")
            callers = [calls.submit(pairs.load, name) for name in ("a", "b")]
            for keys in ("old,new", "new,old", "new"):
                for name in ("a", "b"):
                    pairs.start(name, keys)
                    for each in ("a", "b") * 20:
                        pairs.ask(each)
            pairs.over.set()
            for caller in callers:
                caller.result(WITHIN)
        finally:
            pairs.over.set()
            for one in pairs.every():
                one.kill()
    assert len(pairs.statuses) > 240
    assert set(pairs.statuses) == {200}
    assert not any("is dropped" in one.log for one in pairs.every())


# ---- who is told what: access control


def users() -> dict[str, list[str]]:
    """The rules of each user that the page shows."""
    (block,) = re.findall(r"```text\n(ACL SETUSER.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return {name: rules for _, _, name, *rules in (line.split() for line in lines)}


@contextmanager
def guarded_broker(*options: str) -> Iterator[tuple[Broker, dict[str, str]]]:
    """A Redis with the users of the page, and the URL of each."""
    with broker(*options) as redis:
        urls = {}
        for name, rules in users().items():
            redis.cli("ACL", "SETUSER", name, *(rule.replace("PASSWORD", f"{name}-pass") for rule in rules))
            urls[name] = f"redis://{name}:{name}-pass@127.0.0.1:{redis.port}/2"
        yield redis, urls


def denied(redis: Broker) -> list[dict[bytes, Any]]:
    return [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in redis.cli("ACL", "LOG")]


@pytest.mark.timeout(150)
def test_the_users_of_the_page_can_do_what_is_needed_and_nothing_else(gate: Gate) -> None:
    with guarded_broker() as (redis, urls), ThreadPoolExecutor(8) as calls:
        with closing(Line(address_of(f"redis://127.0.0.1:{redis.port}/2"))) as line:
            line.exchange([("HSET", "offloop:workers:default", "of a lost host", announcement(0.0, 1, 0))])
        with (
            serving(APP, env=env_of(urls["offloop-web"], **WEB)) as web,
            working(PACKAGE, "--concurrency", "2", env=env_of(urls["offloop-worker"])) as worker,
        ):
            whole = Guarded(redis, web, worker, calls)
            whole.wait_ready()
            with held(whole, gate), held(whole, gate):  # both workers: the next one is taken back at its deadline
                late = whole.say("late", timeout=0.3)
                assert late.result(WITHIN).json()["reason"] == "expired-in-queue"
            with httpx.stream("POST", f"{web.url}/tell", json={"text": "gone"}, timeout=WITHIN,
                              headers={"Accept": "text/event-stream"}):  # fmt: skip
                gate.wait("gone")
            gate.open("gone")
            lost = calls.submit(httpx.post, f"{web.url}/fatal", json={"text": "x"}, timeout=WITHIN).result(WITHIN)
            assert lost.json()["reason"] == "worker-lost", lost.text
            for tried in (rb"xinfo\|consumers:calls=[2-9]", rb"_hdel:calls=[2-9]"):  # both have swept; and the web side
                redis.until(lambda told, tried=tried: re.search(tried, told), "INFO", "commandstats")
            worker.process.terminate()
            assert worker.wait() == 0
            dead = env_of(urls["offloop-dead"])
            (letter,) = json.loads(offloop("dead", "list", "--json", env=dead).stdout)
            for command in (("list",), ("show", letter["id"]), ("replay", letter["id"]), ("drop", "--all")):
                done = offloop("dead", *command, env=dead)
                assert done.returncode == 0, done.stdout + done.stderr
            web.process.terminate()
            web.wait()
        assert denied(redis) == []


OUTSIDE = [
    ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("CLIENT", "LIST"), ("SUBSCRIBE", "offloop"), ("MONITOR",),
    ("SCRIPT", "FLUSH"), ("XADD", "another:requests:default", "*", "a", "b"), ("DEL", "another"), ("ACL", "LIST"),
]  # fmt: skip


def test_what_is_outside_is_refused() -> None:
    with guarded_broker() as (_, urls):
        for url in urls.values():
            line = Line(address_of(url))
            try:
                for command, reply in zip(OUTSIDE, line.exchange(OUTSIDE), strict=True):
                    assert isinstance(reply, ReplyError), command
                    assert str(reply).startswith("NOPERM"), command
            finally:
                line.close()


# ---- secrets

SECRET = "s3cretw0rd"


def shown(*servers: Server) -> str:
    """All that these and their children have printed, and their command lines."""
    lines = [one.log for one in servers]
    for pid in {pid for one in servers for pid in one.processes()}:
        with suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return "\n".join(lines)


def secret_env(url: str, **more: str | None) -> Env:
    return {"OFFLOOP_BROKER_URL": url, "OFFLOOP_SIGNING_KEY": f"key-{SECRET}", "TEST_DEBUG": "1", **more}


def test_no_secret_is_shown_while_all_is_well(gate: Gate) -> None:
    with broker("--requirepass", SECRET, "--user", "someone", "on", f">{SECRET}", "~*", "+@all") as redis:
        url = f"redis://someone:{SECRET}@127.0.0.1:{redis.port}/0"
        with (
            serving(APP, "--log-level", "debug", env=secret_env(url, **WEB, OFFLOOP_DEBUG="1")) as web,
            working(PACKAGE, "--concurrency", "1", env=secret_env(url)) as worker,
        ):
            answer = httpx.post(f"{web.url}/say", json={"text": "x"}, timeout=WITHIN)
            assert answer.status_code == 200
            pages = [httpx.get(f"{web.url}/offloop/{page}").text for page in ("status", "metrics", "readyz")]
            pages += [worker.probe(page)[1] for page in ("/metrics", "/readyz")]
            printed = shown(web, worker) + "\n".join(pages)
            worker.process.terminate()
            worker.wait()
            printed += shown(web, worker)
    assert "DEBUG" in printed
    assert SECRET not in printed
    assert "someone" not in printed


@contextmanager
def page_server() -> Iterator[int]:
    """Somebody who answers whatever comes, and is no Redis."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                line, _ = listener.accept()
                with line:
                    line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield port
        over.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join(WITHIN)


FAULTS = ["wrong password", "not quoted"]
RARER = [pytest.param(one, marks=pytest.mark.slow) for one in ("nobody listens", "no port", "no TLS", "no Redis")]


@pytest.mark.parametrize("fault", [*FAULTS, *RARER])
def test_no_secret_is_shown_where_the_broker_cannot_be_used(fault: str) -> None:
    with broker("--requirepass", "another") as redis, page_server() as page:
        at, user = f"127.0.0.1:{redis.port}", f"someone:{SECRET}"
        url, said = {
            "wrong password": (f"redis://{user}@{at}/0", "WRONGPASS"),
            "nobody listens": (f"redis://{user}@127.0.0.1:{free_port()}/0", "refused|[Cc]onnect"),
            "no port": (f"redis://{user}@127.0.0.1:none/0", "OFFLOOP_BROKER_URL cannot be used"),
            "not quoted": (f"redis://someone:1/{SECRET}@{at}/0", "OFFLOOP_BROKER_URL cannot be used"),
            "no TLS": (f"rediss://{user}@{at}/0", "SSL|closed|lost|reset|[Tt]imeout|[Cc]onnect"),
            "no Redis": (f"redis://{user}@127.0.0.1:{page}/0", "rotocol|no Redis"),
        }[fault]
        env = secret_env(url)
        web = Server(APP, "--log-level", "debug", env={**env, **WEB})
        with working(PACKAGE, "--concurrency", "1", env=env) as worker:
            try:
                worker.wait_line(said)
                assert web.wait() != 0
                web.wait_line(said)
                printed = shown(web, worker)
            finally:
                web.kill()
    assert SECRET not in printed
    assert "someone" not in printed


# ---- other ways to a Redis


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    return folder


@contextmanager
def encrypted(certificate: Path) -> Iterator[tuple[Broker, int]]:
    """A Redis, and its port for TLS."""
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", f"{certificate}/cert.pem", "--tls-key-file", f"{certificate}/key.pem")
    with broker(*options, *files, "--tls-ca-cert-file", f"{certificate}/cert.pem") as redis:
        yield redis, port


def goes_all_the_way(url: str) -> Server:
    """By a web process with a worker of its own; returns it when it has ended."""
    env = env_of(url, OFFLOOP_MODE="process", OFFLOOP_WORKERS="1", OFFLOOP_SIGNING_KEY=None)
    with serving(APP, env=env) as web:
        answer = httpx.post(f"{web.url}/say", json={"text": "x"}, timeout=WITHIN)
        assert (answer.status_code, answer.json()) == (200, {"text": "x", "cancelled": False}), web.log
    return web


def test_it_works_over_tls_with_a_certificate_of_ones_own(gate: Gate, certificate: Path) -> None:
    with encrypted(certificate) as (redis, port):
        goes_all_the_way(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}/cert.pem")
        assert redis.keys()


@pytest.mark.parametrize("host", ["localhost", pytest.param("127.0.0.1", marks=pytest.mark.slow)])
def test_a_certificate_that_is_not_known_or_not_for_that_host_is_refused(certificate: Path, host: str) -> None:
    with encrypted(certificate) as (redis, port):
        known = "" if host == "localhost" else f"?ssl_ca_certs={certificate}/cert.pem"
        web = Server(APP, env=env_of(f"rediss://someone:{SECRET}@{host}:{port}/0{known}", **WEB))
        try:
            assert web.wait() != 0
            web.wait_line("certificate verify failed")
        finally:
            web.kill()
        assert SECRET not in web.log
        assert redis.keys() == []


def test_it_works_over_a_unix_socket_with_a_user_and_another_database(gate: Gate) -> None:
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder:
        path = f"{folder}/redis.sock"
        with broker("--unixsocket", path, "--user", "someone", "on", f">a/{SECRET}", "~*", "+@all") as redis:
            goes_all_the_way(f"redis+unix://someone:a%2F{SECRET}@{path}?db=3")
            assert redis.cli("INFO", "keyspace").count(b"db3:") == 1
            assert redis.keys() == []


# ---- without a key


def test_a_broker_elsewhere_that_is_used_without_a_key_is_warned_of_once(gate: Gate) -> None:
    with broker() as redis:
        elsewhere = goes_all_the_way(f"redis://0.0.0.0:{redis.port}/0")  # which is this host, but does not say so
        here = goes_all_the_way(redis.url)
    assert elsewhere.log.count("OFFLOOP_SIGNING_KEY") == 1
    assert "OFFLOOP_SIGNING_KEY" not in here.log

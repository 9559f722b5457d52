"""What a test may put in the place of services and nodes, seen by `ask` and over HTTP."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dishka import Provider, Scope, provide
from fastapi import FastAPI
from fastapi.testclient import TestClient

from offloop import Blob, Endpoint, Offloop, Problem, Settings, errors
from offloop.fastapi import OffloopRouter
from offloop.testing import answers, override
from tests.unit.testing import program
from tests.unit.testing.program import Count, Dictionary, Page, Text, TooLong, copy, count, either, language, note, read

SETTINGS = Settings(threads=1, gc_freeze=False)
TEXT = Text(text="one two three")


@pytest.fixture
def off() -> Offloop:
    program.ran.clear()
    return Offloop(program.__name__, settings=SETTINGS)


@pytest.fixture
def app(off: Offloop) -> FastAPI:
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    return app


# ---- answers: what is answered


async def test_a_reply_is_answered_and_no_node_runs(off: Offloop) -> None:
    async with off:
        with answers(off, {count: Count(words=42), read: Count(words=7)}):
            assert await off.ask(count, TEXT) == Count(words=42)
            assert await off.ask(read, Blob(b"")) == Count(words=7)
    assert program.ran == []


async def test_what_is_not_named_works_as_ever(off: Offloop) -> None:
    async with off:
        with answers(off, {read: Count(words=7)}):
            assert await off.ask(count, TEXT) == Count(words=3)
    assert program.ran == ["count"]


async def test_a_function_answers_from_the_message(off: Offloop) -> None:
    async with off:
        with answers(off, {count: lambda text: Count(words=len(text.text)), copy: lambda blob: Blob(blob.data * 2)}):
            assert await off.ask(count, TEXT) == Count(words=13)
            assert (await off.ask(copy, Blob(b"ab"))).data == b"abab"


async def test_none_and_unions_are_answered_like_any_reply(off: Offloop) -> None:
    async with off:
        with answers(off, {note: None, either: Page(number=4)}):
            assert await off.ask(note, TEXT) is None
            assert await off.ask(either, TEXT) == Page(number=4)
        with answers(off, {note: lambda text: None, either: lambda text: Count(words=1)}):
            assert await off.ask(note, TEXT) is None
            assert await off.ask(either, TEXT) == Count(words=1)
    assert program.ran == []


@pytest.mark.parametrize("answer", [TooLong("Shorter", limit=3), lambda text: refuse()])
async def test_a_problem_refuses(off: Offloop, answer: Any) -> None:
    async with off:
        with answers(off, {count: answer}), pytest.raises(TooLong) as refused:
            await off.ask(count, TEXT)
    assert refused.value.members == {"limit": 3}
    assert refused.value.detail == "Shorter"


def refuse() -> Count:
    raise TooLong("Shorter", limit=3)


async def test_the_class_of_a_problem_refuses_as_well(off: Offloop) -> None:
    async with off:
        with answers(off, {count: TooLong}), pytest.raises(TooLong):
            await off.ask(count, TEXT)


FAILURES = sorted(
    set(errors.BY_REASON.values()) - {errors.Cancelled, errors.InvalidPayload}, key=lambda one: one.reason
)
BEGUN = {"deadline-exceeded", "node-failed", "no-reply", "worker-lost"}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.reason)
async def test_every_failure_of_the_contract_can_be_answered(off: Offloop, failure: type[errors.OffloopError]) -> None:
    async with off:
        for answer in (failure, failure(), raising(failure)):
            with answers(off, {either: answer}), pytest.raises(failure) as failed:
                await off.ask(either, TEXT)
            assert type(failed.value) is failure
            assert failed.value.started is (failure.reason in BEGUN)
            assert failed.value.retry_safe is (failure.reason not in BEGUN)
            assert (failed.value.retry_after is not None) == (failed.value.status in (429, 503))
            assert failed.value.endpoint == "either"


def raising(failure: type[Exception]) -> Callable[[object], None]:
    def answer(message: object) -> None:
        raise failure

    return answer


@pytest.mark.parametrize(("started", "status"), [(False, 503), (True, 504)])
async def test_a_cut_by_a_drain_may_have_begun_or_not(off: Offloop, started: bool, status: int) -> None:
    async with off:
        with answers(off, {count: errors.DrainCut(started=started)}), pytest.raises(errors.DrainCut) as cut:
            await off.ask(count, TEXT)
    assert (cut.value.started, cut.value.status) == (started, status)


async def test_an_invalid_payload_can_be_answered_with_its_errors(off: Offloop) -> None:
    fault = {"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {}}
    async with off:
        with answers(off, {count: errors.InvalidPayload([fault])}), pytest.raises(errors.InvalidPayload) as invalid:
            await off.ask(count, TEXT)
    assert invalid.value.errors == [fault]


@pytest.mark.parametrize("answer", [ValueError("boom"), ValueError, raising(KeyError), errors.StartError()])
async def test_any_other_exception_is_a_failed_node(off: Offloop, answer: Any) -> None:
    async with off:
        with answers(off, {count: answer}), pytest.raises(errors.NodeFailed):
            await off.ask(count, TEXT)


async def test_a_problem_named_like_a_failure_stays_a_problem(off: Offloop) -> None:
    class QueueFull(Problem):
        status, title = 409, "Their queue"

    assert QueueFull.reason == errors.QueueFull.reason
    async with off:
        with answers(off, {count: QueueFull}), pytest.raises(Problem) as refused:
            await off.ask(count, TEXT)
    assert refused.value.status == 409


async def test_a_generator_answers_with_stream_messages_and_the_reply(off: Offloop) -> None:
    def answer(blob: Blob) -> Iterator[Page | Count]:
        yield Page(number=8)
        yield Count(words=9)
        pytest.fail("after the reply nothing is asked for")

    def nothing(blob: Blob) -> Iterator[Page]:
        yield Page(number=8)

    async with off:
        with answers(off, {read: answer}):
            assert await off.ask(read, Blob(b"")) == Count(words=9)
        with answers(off, {read: nothing}), pytest.raises(errors.NoReply):
            await off.ask(read, Blob(b""))


# ---- answers: what cannot be answered


@pytest.mark.parametrize(
    ("asked", "answer", "reason"),
    [
        (count, "42", "count replies Count, and cannot answer str"),
        (count, None, "count replies Count, and cannot answer NoneType"),
        (either, TEXT, "either replies Count or Page, and cannot answer Text"),
        (note, TEXT, "note replies NoneType, and cannot answer Text"),
        (count, Count, "count cannot answer <class"),
        (count, errors.Cancelled, "count cannot answer"),
        (copy, Blob(b"", media_type="no type"), "copy cannot answer Blob"),
        (refuse, Count(words=1), "refuse is no endpoint of this program"),
        (Endpoint("count", Text, Count, to=count), Count(words=1), "count is no endpoint of this program"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(off: Offloop, asked: Any, answer: Any, reason: str) -> None:
    with pytest.raises(errors.UsageError) as refused, answers(off, {asked: answer}):
        pass
    assert reason in str(refused.value)


async def test_a_function_that_answers_the_wrong_type_is_a_failed_node_and_the_log_says_why(
    off: Offloop, caplog: pytest.LogCaptureFixture
) -> None:
    async with off:
        with answers(off, {count: lambda text: "42"}), pytest.raises(errors.NodeFailed):
            await off.ask(count, TEXT)
    assert "count replies Count, and cannot answer str" in caplog.text


# ---- answers: when


async def test_answers_hold_inside_of_the_block_only_and_the_inner_one_wins(off: Offloop) -> None:
    async with off:
        with answers(off, {count: Count(words=1), read: Count(words=2)}):
            with answers(off, {count: Count(words=3)}):
                assert (await off.ask(count, TEXT)).words == 3
                assert (await off.ask(read, Blob(b""))).words == 2
            assert (await off.ask(count, TEXT)).words == 1
        assert (await off.ask(count, TEXT)) == Count(words=3)
    assert program.ran == ["count"]


async def test_a_block_that_raises_puts_everything_back(off: Offloop) -> None:
    async with off:
        with pytest.raises(LookupError), answers(off, {count: Count(words=1)}):
            raise LookupError
        assert (await off.ask(count, TEXT)).words == 3


async def test_answers_may_be_there_before_the_start_and_after_the_end(off: Offloop) -> None:
    with answers(off, {count: Count(words=1)}):
        for _ in range(2):
            async with off:
                assert (await off.ask(count, TEXT)).words == 1


async def test_two_offloops_do_not_disturb_each_other(off: Offloop) -> None:
    other = Offloop(program.__name__, settings=SETTINGS)
    async with off, other:
        with answers(off, {count: Count(words=1)}):
            assert (await off.ask(count, TEXT)).words == 1
            assert (await other.ask(count, TEXT)).words == 3


# ---- answers over HTTP


def test_routes_answer_as_well_and_still_validate(off: Offloop, app: FastAPI) -> None:
    with TestClient(app) as client, answers(off, {count: Count(words=42), note: None}):
        answered = client.post("/count", json={"text": "x"})
        invalid = client.post("/count", json={"text": 7})
        nothing = client.post("/note", json={"text": "x"})
    assert (answered.status_code, answered.json()) == (200, {"words": 42})
    assert (invalid.status_code, invalid.json()["detail"][0]["loc"]) == (422, ["body", "text"])
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert program.ran == []


def test_routes_answer_failures_as_problems(off: Offloop, app: FastAPI) -> None:
    with TestClient(app) as client:
        with answers(off, {count: errors.QueueFull}):
            full = client.post("/count", json={"text": "x"})
        with answers(off, {count: TooLong(limit=3)}):
            refused = client.post("/count", json={"text": "x"})
    assert (full.status_code, full.json()["reason"]) == (503, "queue-full")
    assert int(full.headers["retry-after"]) >= 1
    assert (refused.status_code, refused.json()["limit"]) == (422, 3)
    assert json.loads(refused.content)["reason"] == "too-long"


# ---- override


class German(Provider):
    @provide(scope=Scope.APP)
    def dictionary(self) -> Dictionary:
        return Dictionary("German")


class Latin(Provider):
    @provide(scope=Scope.APP)
    def dictionary(self) -> Dictionary:
        return Dictionary("Latin")


@pytest.mark.parametrize("provider", [German, German()])
async def test_services_come_from_the_provider_that_overrides(off: Offloop, provider: Any) -> None:
    with override(off, provider):
        async with off:
            assert (await off.ask(language, TEXT)).text == "German"
    async with off:
        assert (await off.ask(language, TEXT)).text == "English"


async def test_of_nested_overrides_the_inner_one_wins(off: Offloop) -> None:
    with override(off, German):
        with override(off, Latin):
            async with off:
                assert (await off.ask(language, TEXT)).text == "Latin"
        async with off:
            assert (await off.ask(language, TEXT)).text == "German"


async def test_an_offloop_that_runs_cannot_be_overridden(off: Offloop) -> None:
    async with off:
        with pytest.raises(errors.UsageError, match="its loops have built their services"), override(off, German):
            pass
        assert (await off.ask(language, TEXT)).text == "English"


@pytest.mark.parametrize("use", [lambda off: override(off, German), lambda off: answers(off, {count: TooLong})])
def test_loops_in_other_processes_are_out_of_reach(use: Callable[[Offloop], Any]) -> None:
    off = Offloop(program.__name__, settings=Settings(mode="process"))
    with pytest.raises(errors.UsageError, match="Test in thread mode"), use(off):
        pass

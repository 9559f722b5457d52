"""Stand-ins: what a test puts in the place of a program's services, or of its nodes.

Owns `override` and `answers`. Only what is named is replaced; all else stays the real thing: admission, the queue,
validation, encoding, outcomes. So what a test sees of an answer is what a caller would see of a reply.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

from dishka import Provider
from pydantic_core import to_json

from offloop import errors
from offloop.app import Offloop
from offloop.graph.endpoint import Endpoint
from offloop.graph.job import Job
from offloop.graph.kinds import kinds, name_of
from offloop.graph.node import Resolver
from offloop.graph.router import Out
from offloop.ports.codec import Codec

Asked = Endpoint[Any, Any] | Callable[..., Any]

BEGAN = (errors.DeadlineExceeded, errors.WorkerLost, errors.NodeFailed, errors.NoReply)
"""Failures of requests that had begun, whatever the exception that names them says."""
ANSWERABLE = frozenset(errors.BY_REASON.values()) - {errors.Cancelled}
"""The contract's failures, but the one of which nobody is told."""


@contextmanager
def override(off: Offloop, provider: Provider | type[Provider]) -> Iterator[None]:
    """Within it, services come from this provider, as far as it provides them; others as ever.

    Enter it before `off`, whose loops build their services as they start: `with override(…), TestClient(app):`. It may
    be nested: the inner provider wins.

    Args:
        off: in thread mode, and not started.
        provider: a dishka Provider, or its class.

    Raises:
        UsageError: `off` is running, or in a mode whose loops run in other processes.
    """
    _in_this_process(off, "override")
    if off.gateway is not None:
        raise errors.UsageError(
            "this Offloop is running, and its loops have built their services. Enter `override(off, …)` first, and "
            "`off` (or the TestClient of its app) inside of it"
        )
    with off.program.override(provider):
        yield


@contextmanager
def answers(off: Offloop, replies: Mapping[Asked, Any]) -> Iterator[None]:
    """Within it, these endpoints answer what is given, and their nodes do not run; others work as ever.

    Payloads are validated still. It may be entered before or after `off` is, and nested: the inner answer wins.

    Args:
        off: in thread mode.
        replies: by endpoint, or by function under `@endpoint`, one of: a reply; an exception or its class (a `Problem`
            refuses, an error of `offloop.errors` is that failure, any other is `node-failed`); a function of the
            request's message that returns a reply or raises; a generator function that yields stream messages and
            then the reply.

    Raises:
        UsageError: there is no such endpoint, it could not give such a reply, or `off`'s loops run in other processes.
    """
    _in_this_process(off, "answers")
    program = off.program
    found = {program.find(asked): answer for asked, answer in replies.items()}
    stand_ins = {
        endpoint.name: Answer(endpoint, program.codec(endpoint.name), answer) for endpoint, answer in found.items()
    }
    with program.stand_in(stand_ins):
        yield


def _in_this_process(off: Offloop, what: str) -> None:
    if off.settings.mode != "thread":
        raise errors.UsageError(
            f"{what} reaches loops in this process only, and mode is {off.settings.mode}. Test in thread mode: "
            f"OFFLOOP_MODE=thread, or Offloop(…, settings=Settings(mode='thread'))"
        )


class Answer:
    """One endpoint's answer, in the place of its route.

    Args:
        endpoint: whose.
        codec: its codec.
        answer: as `answers` takes it.

    Raises:
        UsageError: what could otherwise only fail later, in a loop.
    """

    uses_services = False

    def __init__(self, endpoint: Endpoint[Any, Any], codec: Codec, answer: Any) -> None:
        self._name = endpoint.name
        self._replies = [kind.cls for kind in kinds(endpoint.reply)] or [type(None)]
        self._streams = [kind.cls for kind in kinds(endpoint.stream)]
        self._answer = answer() if isinstance(answer, type) and issubclass(answer, Exception) else answer
        if isinstance(self._answer, type | errors.Cancelled):
            raise errors.UsageError(
                f"{self._name} cannot answer {answer!r}. Give a reply, a function, or an exception that a caller sees"
            )
        if not isinstance(self._answer, Exception) and not self._is_function:
            self._must_be_reply(answer)
            try:
                codec.encode_reply(answer)
            except (TypeError, ValueError) as reason:
                raise errors.UsageError(f"{self._name} cannot answer {answer!r}: {reason}") from reason

    @property
    def _is_function(self) -> bool:
        return callable(self._answer) and type(self._answer) not in self._replies

    def run(self, message: object, job: Job, services: Resolver | None, out: Out) -> None:
        """As `Route.run`."""
        try:
            self._run(message, out)
        except errors.OffloopError as error:
            if type(error) not in ANSWERABLE:
                raise
            cast("Ending", out).end(**_outcome_of(error))

    def _run(self, message: object, out: Out) -> None:
        answer = self._answer
        if isinstance(answer, Exception):
            raise answer
        if self._is_function:
            answer = answer(message)
        if not isinstance(answer, Iterator):
            self._reply(answer, out)
            return
        for emitted in answer:
            if type(emitted) in self._streams:
                out.chunk(emitted)
            else:
                self._reply(emitted, out)
                return

    def _reply(self, message: object, out: Out) -> None:
        self._must_be_reply(message)
        out.reply(message, last=True)

    def _must_be_reply(self, message: object) -> None:
        if type(message) not in self._replies:
            declared = " or ".join(name_of(cls) for cls in self._replies)
            raise errors.UsageError(f"{self._name} replies {declared}, and cannot answer {name_of(type(message))}")


class Ending(Protocol):
    """Where a runner notes the end of a request, which no route has a use for."""

    def end(self, **outcome: Any) -> None: ...


def _outcome_of(error: errors.OffloopError) -> dict[str, Any]:
    outcome: dict[str, Any] = {"reason": error.reason, "started": bool(error.started) or isinstance(error, BEGAN)}
    if isinstance(error, errors.InvalidPayload):
        outcome["payload"] = to_json(error.errors, inf_nan_mode="null")
    return outcome

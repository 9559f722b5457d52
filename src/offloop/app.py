"""Offloop: the front door. Owns entering and leaving, and asking from Python; everything else is assembled below it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Concatenate, Self, TypeVar, overload

from offloop import errors
from offloop.assembly import Runtime
from offloop.core.policy import Policy
from offloop.events import Observer
from offloop.graph.endpoint import Endpoint
from offloop.graph.program import Program
from offloop.ingress.asking import Messages, outcome_of, stream_of
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.messages import Outcome
from offloop.ports.codec import Encoded
from offloop.settings import Settings

Request = TypeVar("Request")
Reply = TypeVar("Reply")

NOT_STARTED = (
    "this Offloop is not started. Include OffloopRouter(off) in the app that the server runs, or enter it with "
    "`async with off:`. A mounted sub-application and a TestClient without `with` never run a lifespan."
)


class Offloop:
    """A program and the loops that run it.

    Args:
        packages: names of modules, or of packages with their submodules; imported and checked at once.
        settings: otherwise read from the environment.

    Raises:
        PreflightError: the program cannot work; every fault is named.
        SettingsError: a setting cannot be what it is.

    An async context manager: entering starts the loops, leaving drains them. Nested entries count as one, and it may be
    entered again after it ended.
    """

    def __init__(self, *packages: str, settings: Settings | None = None, observers: tuple[Observer, ...] = ()) -> None:
        self.settings = settings if settings is not None else Settings()
        self.program = Program.load(*packages, elsewhere=self.settings.mode == "cluster")
        self._observers = observers
        self._runtime: Runtime | None = None
        self._entries = 0
        self._changing = asyncio.Lock()

    # ---- life

    async def __aenter__(self) -> Self:
        async with self._changing:
            if self._entries:
                self._here()
            else:
                runtime = Runtime(self.program, self.settings, self._observers)
                await runtime.start()
                self._runtime = runtime
            self._entries += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._changing:
            self._entries -= 1
            if self._entries or self._runtime is None:
                return
            runtime = self._runtime
            runtime.begin_drain()
            await runtime.wait_finished()
            self._runtime = None

    def begin_drain(self) -> None:
        """Turn readiness false and let what is admitted end; without effect where nothing runs. Event loop only."""
        if self._runtime is not None:
            self._runtime.begin_drain()

    async def wait_drained(self) -> None:
        """Until a drain that was begun has ended, its loops have stopped and its logs are written."""
        if self._runtime is not None:
            await self._runtime.wait_finished()

    # ---- what is so

    @property
    def gateway(self) -> Gateway | None:
        """The way in; None while nothing runs."""
        return self._runtime.gateway if self._runtime is not None else None

    @property
    def ready(self) -> bool:
        """Whether this process should be sent requests."""
        return self._runtime is not None and self._runtime.gateway.ready

    def status(self) -> dict[str, Any]:
        """A snapshot: mode, state, queue, waiters and loops. Plain values."""
        if self._runtime is None:
            return {"mode": self.settings.mode, "state": "new", "ready": False}
        return {"mode": self.settings.mode, **self._runtime.status()}

    def metrics(self) -> bytes:
        """The metrics of this process in Prometheus' text format; empty while nothing runs."""
        return self._runtime.metrics.render() if self._runtime is not None else b""

    # ---- asking

    def _here(self) -> Runtime:
        """The runtime, if it may be used from where we are."""
        if self._runtime is None:
            raise errors.NotStarted(NOT_STARTED, retry_safe=True)
        if asyncio.get_running_loop() is not self._runtime.loop:
            raise errors.UsageError(
                "this Offloop was started on another event loop. Ask on that one, or use `off.ask_sync` from a thread."
            )
        return self._runtime

    @overload
    async def ask(
        self,
        endpoint: Endpoint[Request, Reply],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    @overload
    async def ask(
        self,
        endpoint: Callable[Concatenate[Request, ...], None],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> None: ...
    @overload
    async def ask(
        self,
        endpoint: Callable[Concatenate[Request, ...], Iterator[Reply | None]],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    @overload
    async def ask(
        self,
        endpoint: Callable[Concatenate[Request, ...], Reply | None],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    async def ask(
        self,
        endpoint: Endpoint[Any, Any] | Callable[..., Any],
        message: Any,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """One request, one outcome.

        Args:
            endpoint: an Endpoint, or a function decorated with `@endpoint`.
            message: of its request type.
            timeout: seconds; shortens the endpoint's own.
            request_id: the caller's label for logs.

        Returns:
            The reply.

        Raises:
            OffloopError: the error that names the failure; a declared Problem as its own class.
        """
        spec = self.program.find(endpoint)
        runtime = self._here()
        codec = self.program.codec(spec.name)
        label = request_id or ""
        outcome, retry_after = await outcome_of(
            runtime.gateway, spec.name, codec.encode_request(message), timeout=timeout, request_id=label
        )
        if outcome.reason == "ok" and not outcome.status:
            # Which form it is the media type tells: JSON has none of its own.
            return codec.decode_reply(Encoded(outcome.payload, "json", outcome.media_type, outcome.filename))
        raise self._error(runtime.gateway.policies[spec.name], outcome, label, retry_after)

    def _error(self, policy: Policy, outcome: Outcome, request_id: str, retry_after: int | None) -> errors.OffloopError:
        problem = self.program.problem(policy.name, outcome.reason) if outcome.status else None
        return error_of(outcome, policy, request_id, problem, retry_after)

    @overload
    def stream(
        self,
        endpoint: Endpoint[Request, Reply],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> AbstractAsyncContextManager[Messages[Reply]]: ...
    @overload
    def stream(
        self,
        endpoint: Callable[Concatenate[Request, ...], Any],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> AbstractAsyncContextManager[Messages[Any]]: ...
    @asynccontextmanager
    async def stream(
        self,
        endpoint: Endpoint[Any, Any] | Callable[..., Any],
        message: Any,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[Messages[Any]]:
        """One request, its stream messages as they come, and then its reply.

        Example:
            async with off.stream(read, Blob(pdf)) as messages:
                async for page in messages:
                    show(page)
            document = messages.reply

        Leaving the block early cancels the request: its node sees `job.cancelled`, and its generator is closed.

        Args:
            endpoint: an Endpoint, or a function decorated with `@endpoint`.
            message: of its request type.
            timeout: seconds; shortens the endpoint's own.
            request_id: the caller's label for logs.

        Raises:
            OffloopError: on entering, what refuses the request; while iterating, what the request ended with.
        """
        spec = self.program.find(endpoint)
        runtime = self._here()
        codec = self.program.codec(spec.name)
        label = request_id or ""
        # Not to be looked up when it is raised: whoever takes slowly may outlive the runtime.
        policy = runtime.gateway.policies[spec.name]
        async with stream_of(
            runtime.gateway, spec.name, codec.encode_request(message), codec,
            lambda outcome, retry_after: self._error(policy, outcome, label, retry_after),
            timeout=timeout, request_id=label,
        ) as messages:  # fmt: skip
            yield messages

    @overload
    def ask_sync(
        self,
        endpoint: Endpoint[Request, Reply],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    @overload
    def ask_sync(
        self,
        endpoint: Callable[Concatenate[Request, ...], None],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> None: ...
    @overload
    def ask_sync(
        self,
        endpoint: Callable[Concatenate[Request, ...], Iterator[Reply | None]],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    @overload
    def ask_sync(
        self,
        endpoint: Callable[Concatenate[Request, ...], Reply | None],
        message: Request,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Reply: ...
    def ask_sync(
        self,
        endpoint: Endpoint[Any, Any] | Callable[..., Any],
        message: Any,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """`ask`, from a plain thread; blocks it until the outcome. Never on the event loop that runs this Offloop."""
        runtime = self._runtime
        if runtime is None:
            raise errors.NotStarted(NOT_STARTED, retry_safe=True)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asking = self.ask(endpoint, message, timeout=timeout, request_id=request_id)
            return asyncio.run_coroutine_threadsafe(asking, runtime.loop).result()
        raise errors.UsageError(
            "ask_sync blocks its thread, and this thread runs an event loop: use `await off.ask(…)`."
        )

"""Settings: what may be set from outside, read once, checked with one clear line.

Owns names, defaults, units and bounds (section 4 of the contract). Nothing here acts on a setting.
"""

import logging
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from string import Formatter
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from offloop.cpus import usable_cpus
from offloop.errors import SettingsError

log = logging.getLogger("offloop")

Mode = Literal["thread", "process", "cluster"]

PREFIX = "OFFLOOP_"
MIB = 2**20
BROKER_SCHEMES = (
    *("redis", "rediss", "redis+unix"),
    *("celery+redis", "celery+rediss", "celery+redis+socket", "celery+amqp", "celery+amqps"),
)
SECRET = frozenset({"broker_url", "signing_key"})
"""Settings whose values appear in no message, log line or repr."""

Words = Annotated[tuple[str, ...], NoDecode]
"""Several words; in the environment one string, separated by commas."""

# A service called `offloop`, or `offloop-…`, makes Kubernetes put its address into every pod's environment.
_KUBERNETES = re.compile(r"OFFLOOP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_OURS = frozenset({"OFFLOOP_WORKER_INDEX"})  # set by us, in workers


class Settings(BaseSettings):
    """Every setting, in seconds, bytes or counts. The environment prefix is `OFFLOOP_`; arguments win over it.

    Example:
        >>> Settings(queue_limit=5).queue_limit
        5

    Raises:
        SettingsError: a value it cannot have; one line names the variable or argument and what it may be.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    mode: Mode = "thread"
    """Who runs the loops: threads of this process, worker processes on this host, or a cluster behind a broker."""
    broker_url: str | None = None
    """Where a cluster meets: `redis://`, `rediss://`, `redis+unix://`, `celery+redis://`, `celery+amqp://`."""
    threads: int | None = Field(default=None, ge=1)
    """Loops in one process; None: what `threads_in` says."""
    workers: int = Field(default_factory=usable_cpus, ge=1)
    """Worker processes, in process and cluster mode; the CPUs it may use."""
    queue_limit: int = Field(default=100, ge=1)
    """Requests admitted and not begun."""
    queue_bytes: int = Field(default=256 * MIB, ge=1)
    """Bytes of bodies reserved or queued."""
    max_reply: int = Field(default=16 * MIB, ge=1)
    """Bytes of the largest reply; a larger one is `node-failed`."""
    drain_timeout: float = Field(default=20.0, ge=0)
    """Seconds a graceful stop may take."""
    drain_delay: float = Field(default=0.0, ge=0)
    """Seconds to go on admitting after readiness turned false, for load balancers."""
    kill_grace: float = Field(default=5.0, ge=0)
    """Seconds past its deadline that a node may hold its loop before the loop is replaced."""
    max_requests: int = Field(default=0, ge=0)
    """Recycle a worker process after about so many requests; 0: never."""
    max_deliveries: int = Field(default=3, ge=1)
    """How often a request of an `idempotent` endpoint may begin."""
    ws_in_flight: int = Field(default=16, ge=1)
    """Requests at once on one WebSocket."""
    ws_origins: Words = ()
    """Origins that may open a WebSocket, such as `https://example.org`; `*`: any; none: the same origin only."""
    gc_freeze: bool = True
    """Whether to `gc.freeze()` once started."""
    switch_interval: float = Field(default=0.0005, gt=0)
    """Seconds for `sys.setswitchinterval` in thread mode; restored at the end."""
    namespace: str = "offloop"
    """Prefix of every name on a shared broker."""
    event_log: str | None = None
    """Path of an event log; may hold `{host}` and `{pid}`."""
    signing_key: Words = ()
    """Signs envelopes on a shared broker with the first, and checks them with any (to rotate)."""
    debug: bool = False
    """Whether problems carry the traceback."""

    def threads_in(self, mode: Mode) -> int:
        """Loops in one process of that mode."""
        return self.threads or (4 if mode == "thread" else 1)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, "…" if name in SECRET and value else value

    @field_validator("ws_origins", "signing_key", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else value

    @field_validator("broker_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and value.partition("://")[0] not in BROKER_SCHEMES:
            raise ValueError(f"it begins with one of {', '.join(f'{scheme}://' for scheme in BROKER_SCHEMES)}")
        return value

    @field_validator("ws_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin
            ):
                raise ValueError("it may be `*`, or origins such as https://example.org, without a path, by commas")
        return value

    @field_validator("signing_key")
    @classmethod
    def _no_empty_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("it may be a key, or several by commas, none of them empty")
        return value

    @field_validator("namespace")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise ValueError("it may hold letters, digits, dots, dashes and underscores")
        return value

    @field_validator("event_log")
    @classmethod
    def _fields_of_a_path(cls, value: str | None) -> str | None:
        known = {None, "host", "pid"}
        try:
            valid = value is None or (value and {field for _, field, _, _ in Formatter().parse(value)} <= known)
        except ValueError:  # a brace without its partner
            valid = False
        if not valid:
            raise ValueError("it may be a path, in which {host} and {pid} stand for themselves")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "cluster" and self.broker_url is None:
            raise ValueError(
                "OFFLOOP_MODE is cluster, which needs OFFLOOP_BROKER_URL, such as redis://localhost:6379/0"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            settings = handler(data)
        except ValidationError as error:
            faults = [_fault(details) for details in error.errors(include_url=False)]
        else:
            _warn_of_unknown_variables()
            return settings
        # Raised out here, so that pydantic's own text, values and all, is not chained to it.
        raise SettingsError("; ".join(faults))


def _fault(details: ErrorDetails) -> str:
    """One fault of one setting, on one line."""
    own_words = str(details["ctx"]["error"]) if details["type"] == "value_error" else ""
    if not details["loc"]:
        return own_words
    name, value = str(details["loc"][0]), details["input"]
    if details["type"] == "extra_forbidden":
        return f"{name} is not a setting{_nearest(name)}"
    variable = PREFIX + name.upper()
    # An argument wins over the environment; where both say the same, either name is the right one.
    called = variable if os.environ.get(variable) == value else name
    shown = "" if name in SECRET else f" is {repr(value)[:80]}"
    return f"{called}{shown}: {own_words or _may_be(name)}"


def _may_be(name: str) -> str:
    """What values a setting takes, read off its declaration."""
    field = Settings.model_fields[name]
    types = (field.annotation, *get_args(field.annotation))
    if name == "mode":
        return f"it may be {', '.join(get_args(Mode))}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number of seconds", str: "a text"}
    text = next(words for kind, words in kinds.items() if kind in types)
    for bound in field.metadata:
        if hasattr(bound, "ge"):
            text += f", {bound.ge} or more"
        if hasattr(bound, "gt"):
            text += f", more than {bound.gt}"
    return f"it may be {text}"


def _warn_of_unknown_variables() -> None:
    for variable in map(str.upper, os.environ):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or name in Settings.model_fields:
            continue
        if variable not in _OURS and not _KUBERNETES.fullmatch(variable):
            log.warning("%s is not a setting of offloop%s", variable, _nearest(name, prefix=PREFIX))


def _nearest(name: str, prefix: str = "") -> str:
    # Compared without the prefix, which would make any two variables alike.
    close = get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {prefix}{close[0].upper() if prefix else close[0]}?" if close else ""

"""Log records that say which request they belong to.

Owns one record factory, put in front of whatever factory was there. A record that is written while a node runs carries
`rid`, `request_id` and `endpoint`, and `traceparent` and `baggage` where the caller sent them. Records that are
written elsewhere stay as they are. No handler, level or format is touched here.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from offloop.context import running
from offloop.messages import Envelope

Factory = Callable[..., logging.LogRecord]

_lock = threading.Lock()
_installed = 0
_before: Factory = logging.LogRecord
_ours: Factory = logging.LogRecord


def install() -> None:
    """From now on. Nested calls are counted: each wants its own `uninstall`."""
    global _installed, _before, _ours  # noqa: PLW0603 - logging has one factory for the whole process
    with _lock:
        _installed += 1
        if _installed == 1:
            _before = logging.getLogRecordFactory()
            _ours = _in_front_of(_before)
            logging.setLogRecordFactory(_ours)


def uninstall() -> None:
    """As it was before, once as often called as `install`. A factory that was put in front of ours is left in place."""
    global _installed  # noqa: PLW0603 - as above
    with _lock:
        _installed -= 1
        if _installed == 0 and logging.getLogRecordFactory() is _ours:
            logging.setLogRecordFactory(_before)


def _in_front_of(before: Factory) -> Factory:
    """A factory of its own for each installation: one that was left in place never meets itself again."""

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        envelope = running.get()
        if envelope is None:
            return before(*args, **kwargs)
        if before is logging.LogRecord:
            return _NodeRecord(_labels(envelope), *args, **kwargs)
        record = before(*args, **kwargs)
        if not isinstance(record, _NodeRecord):
            record.__dict__.update(_labels(envelope))
        return record

    return make


def _labels(envelope: Envelope) -> dict[str, str]:
    labels = {"rid": envelope.rid, "request_id": envelope.request_id, "endpoint": envelope.endpoint}
    labels.update((name, value) for name, value in envelope.trace if name in {"traceparent", "baggage"})
    return labels


class _NodeRecord(logging.LogRecord):
    """A record of a node.

    `Logger.makeRecord` refuses an `extra` whose key the record has already, and a node may well log
    `extra={"request_id": …}`. So the labels join the record's attributes only when its message is made, which every
    formatter does before it reads them; what the node gave itself stays.
    """

    __slots__ = ("labels",)

    def __init__(self, labels: dict[str, str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.labels = labels

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        for name, value in self.labels.items():
            self.__dict__.setdefault(name, value)
        return super().getMessage()

    def __getattr__(self, name: str) -> str:
        if name != "labels" and name in self.labels:  # a filter, or a test, may ask before any formatter
            return self.labels[name]
        raise AttributeError(name)

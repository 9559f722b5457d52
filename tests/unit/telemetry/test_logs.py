import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from offloop.context import running
from offloop.messages import Envelope
from offloop.telemetry import logs

log = logging.getLogger("a.users.node")

ENVELOPE = Envelope(
    rid="r-1", endpoint="read", payload=b"secret", deadline=9.0, request_id="mine",
    trace=(("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("baggage", "tenant=7")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    assert logging.getLogRecordFactory() is before


@pytest.fixture
def installed() -> Iterator[None]:
    logs.install()
    yield
    logs.uninstall()


@pytest.fixture
def in_a_node() -> Iterator[None]:
    token = running.set(ENVELOPE)
    yield
    running.reset(token)


def formatted(record: logging.LogRecord) -> str:
    return logging.Formatter("%(rid)s %(request_id)s %(endpoint)s %(message)s").format(record)


@pytest.mark.usefixtures("installed", "in_a_node")
def test_a_record_of_a_node_carries_its_request(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("%d pages", 3)
    (record,) = caplog.records
    assert (record.rid, record.request_id, record.endpoint) == ("r-1", "mine", "read")  # type: ignore[attr-defined]
    assert formatted(record) == "r-1 mine read 3 pages"


@pytest.mark.usefixtures("installed", "in_a_node")
def test_the_callers_trace_and_baggage_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("so")
    record = caplog.records[0]
    assert record.traceparent == "00-1-2-01"  # type: ignore[attr-defined]
    assert record.baggage == "tenant=7"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed", "in_a_node")
def test_a_node_may_give_such_a_field_itself(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("so", extra={"request_id": "its own", "endpoint": "elsewhere"})
    assert formatted(caplog.records[0]) == "r-1 its own elsewhere so"
    assert caplog.records[0].request_id == "its own"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed", "in_a_node")
def test_a_filter_may_ask_before_a_formatter_does_and_a_record_may_be_copied() -> None:
    record = log.makeRecord("n", logging.INFO, "f", 1, "so", (), None)
    assert record.rid == "r-1"  # type: ignore[attr-defined]
    assert not hasattr(record, "colour")
    assert formatted(copy.copy(record)) == "r-1 mine read so"
    assert b"secret" not in repr(record.__dict__).encode()


@pytest.mark.usefixtures("installed")
def test_records_from_elsewhere_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("so", extra={"request_id": "the app's"})
    assert type(caplog.records[0]) is logging.LogRecord
    assert not hasattr(caplog.records[0], "rid")


def test_nested_installs_are_counted() -> None:
    before = logging.getLogRecordFactory()
    logs.install()
    logs.install()
    logs.uninstall()
    assert logging.getLogRecordFactory() is not before
    logs.uninstall()
    assert logging.getLogRecordFactory() is before


@pytest.mark.usefixtures("in_a_node")
def test_a_factory_that_was_there_before_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        record.hostname = "web-1"
        return record

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(theirs)
    logs.install()
    try:
        log.warning("so")
    finally:
        logs.uninstall()
        assert logging.getLogRecordFactory() is theirs
        logging.setLogRecordFactory(before)
    assert caplog.records[0].hostname == "web-1"  # type: ignore[attr-defined]
    assert formatted(caplog.records[0]) == "r-1 mine read so"


@pytest.mark.usefixtures("in_a_node")
def test_a_factory_that_was_put_in_front_of_ours_is_left_in_place(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    logs.install()
    ours = logging.getLogRecordFactory()

    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return ours(*args, **kwargs)

    logging.setLogRecordFactory(theirs)
    logs.uninstall()
    assert logging.getLogRecordFactory() is theirs
    logs.install()  # ours, theirs, ours: each once
    log.warning("so", extra={"rid": "kept"})
    logs.uninstall()
    assert logging.getLogRecordFactory() is theirs
    logging.setLogRecordFactory(before)
    assert formatted(caplog.records[0]) == "kept mine read so"

"""What is global to the process is put back, by whoever leaves last."""

import gc
import sys
from collections.abc import Iterator

import pytest

from offloop.orchestration import interpreter


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[float]:
    before = sys.getswitchinterval()
    yield before
    assert sys.getswitchinterval() == before
    assert gc.get_freeze_count() == 0


def test_the_switch_interval_is_set_and_put_back(as_it_was: float) -> None:
    interpreter.tune(0.0005)
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    interpreter.restore(frozen=False)
    assert sys.getswitchinterval() == as_it_was


def test_without_a_wish_the_switch_interval_stays(as_it_was: float) -> None:
    interpreter.tune(None)
    assert sys.getswitchinterval() == as_it_was
    interpreter.restore(frozen=False)


def test_of_several_the_last_one_out_puts_back_what_the_first_one_found(as_it_was: float) -> None:
    interpreter.tune(0.001)
    interpreter.tune(0.002)
    interpreter.restore(frozen=False)
    assert sys.getswitchinterval() == pytest.approx(0.002)
    interpreter.restore(frozen=False)
    assert sys.getswitchinterval() == as_it_was


@pytest.mark.parametrize("frozen", [(True, False), (False, True), (True, True)])
def test_the_heap_is_frozen_until_the_last_one_is_out(frozen: tuple[bool, bool]) -> None:
    interpreter.tune(None)
    interpreter.tune(None)
    interpreter.freeze()
    assert gc.get_freeze_count() > 0
    interpreter.restore(frozen=frozen[0])
    assert gc.get_freeze_count() > 0
    interpreter.restore(frozen=frozen[1])
    assert gc.get_freeze_count() == 0


def test_a_heap_that_somebody_else_froze_is_left_alone() -> None:
    gc.freeze()
    try:
        interpreter.tune(None)
        interpreter.restore(frozen=False)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()

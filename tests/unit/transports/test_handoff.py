"""The hand-off's own: order, time-outs, and that nothing lies while a thread is idle."""

import threading
from collections.abc import Callable

from offloop.transports.handoff import Handoff


def thread(work: Callable[[], object]) -> threading.Thread:
    started = threading.Thread(target=work, daemon=True)
    started.start()
    return started


def test_first_in_is_first_out_and_an_empty_hand_off_gives_up_in_time() -> None:
    handoff: Handoff[int] = Handoff()
    for number in range(3):
        handoff.put(number)
    assert [handoff.get(1.0) for _ in range(3)] == [0, 1, 2]
    assert handoff.get(0.0) is None
    assert handoff.get(0.01) is None


def test_a_thread_that_was_woken_while_it_parked_does_not_leave_the_others_asleep() -> None:
    """The putter is held between choosing the thread and waking it, while the thread finds the item by itself."""
    appended, chosen, go_on, wake = (threading.Event() for _ in range(4))

    class Parked(list[threading.Lock]):
        def append(self, lock: threading.Lock) -> None:
            super().append(lock)
            appended.set()
            assert go_on.wait(5.0)

        def pop(self, index: int = -1) -> threading.Lock:  # type: ignore[override]
            lock = super().pop(index)
            chosen.set()
            assert wake.wait(5.0)
            return lock

    handoff: Handoff[str] = Handoff()
    handoff._idle = Parked()
    taken: list[str | None] = []
    taker = thread(lambda: taken.append(handoff.get(5.0)))
    assert appended.wait(5.0)
    putter = thread(lambda: handoff.put("one"))
    assert chosen.wait(5.0)
    go_on.set()
    taker.join(0.05)  # it may take the item now, or only once it has been woken
    wake.set()
    putter.join(5.0)
    taker.join(5.0)
    assert taken == ["one"]
    taker = thread(lambda: taken.append(handoff.get(30.0)))
    while not handoff._idle:
        taker.join(0.001)
    handoff.put("two")
    taker.join(5.0)
    assert taken == ["one", "two"]


def test_every_item_is_taken_once_by_any_number_of_threads() -> None:
    handoff: Handoff[int] = Handoff()
    taken: list[int] = []

    def take() -> None:
        while (number := handoff.get(5.0)) is not None and number >= 0:
            taken.append(number)

    takers = [thread(take) for _ in range(4)]
    putters = [thread(lambda: [handoff.put(number) for number in range(2000)]) for _ in range(2)]
    for putter in putters:
        putter.join(10.0)
    for _ in takers:
        handoff.put(-1)
    for taker in takers:
        taker.join(10.0)
        assert not taker.is_alive()
    assert sorted(taken) == sorted([*range(2000)] * 2)

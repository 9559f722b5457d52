"""The states of one Offloop and the moves between them, as a table. Nothing else may decide what a state allows."""

from enum import StrEnum


class State(StrEnum):
    """Where in its life an Offloop is."""

    NEW = "new"
    SERVING = "serving"
    LEAVING = "leaving"  # readiness is false, admission goes on: load balancers are still being told
    DRAINING = "draining"  # nothing is admitted; what was admitted goes on
    DRAINED = "drained"  # the registry is empty
    STOPPED = "stopped"


class Move(StrEnum):
    START = "start"
    LEAVE = "leave"
    REFUSE = "refuse"
    EMPTY = "empty"
    STOP = "stop"


MOVES: dict[tuple[State, Move], State] = {
    (State.NEW, Move.START): State.SERVING,
    (State.NEW, Move.STOP): State.STOPPED,  # a start that failed
    (State.SERVING, Move.LEAVE): State.LEAVING,
    (State.LEAVING, Move.REFUSE): State.DRAINING,
    (State.DRAINING, Move.EMPTY): State.DRAINED,
    (State.DRAINED, Move.STOP): State.STOPPED,
}
"""Every move there is. There is no way back: a new start is a new Lifecycle."""

ADMITS = frozenset({State.SERVING, State.LEAVING})
READY = frozenset({State.SERVING})
ENDING = frozenset({State.LEAVING, State.DRAINING, State.DRAINED, State.STOPPED})


class Lifecycle:
    """Follows the table."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.NEW

    def move(self, move: Move) -> bool:
        """Make the move if the table has it from here; say whether it was made."""
        target = MOVES.get((self.state, move))
        if target is None:
            return False
        self.state = target
        return True

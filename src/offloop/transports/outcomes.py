"""Outcomes that cannot be sent: too large for whoever reads them, or of letters that no encoding has.

Owns what is sent in their place. Errors have no bound of their own, and a traceback may hold anything.
"""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from offloop.errors import NodeFailed
from offloop.messages import Outcome

log = logging.getLogger("offloop")

DEBUG_LIMIT = 2**16
"""Characters of a traceback that are sent, its last ones."""

T = TypeVar("T")


def written(outcome: Outcome, write: Callable[[Outcome], T], largest: int = sys.maxsize) -> T:
    """What `write` makes of it, or of the outcome that says that this one could not be sent.

    Args:
        write: raises ValueError for what cannot be written.
        largest: bytes of a payload, where `write` does not look.
    """
    if outcome.debug is not None:
        outcome = msgspec.structs.replace(outcome, debug=legible(outcome.debug))
    try:
        if len(outcome.payload) <= largest:
            return write(outcome)
        fault = f"it has {len(outcome.payload)} bytes"
    except ValueError as refused:
        fault = str(refused)
    log.error("an outcome (%s) cannot be sent: %s", outcome.reason, fault)
    return write(
        msgspec.structs.replace(
            outcome, reason=NodeFailed.reason, status=0, payload=b"", media_type=None, filename=None
        )
    )


def legible(text: str) -> str:
    """The end of a text that may hold anything, as a file's name in an exception may."""
    return text[-DEBUG_LIMIT:].encode(errors="replace").decode()

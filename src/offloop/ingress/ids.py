"""Correlation ids. Owns how they are made; nobody takes them apart but to read the epoch."""

import os
from collections.abc import Callable

BLOCK = 4096
"""Random bytes fetched at once: one system call for 512 ids."""


def rids(random: Callable[[int], bytes] = os.urandom) -> Callable[[], str]:
    """A source of ids `<epoch>-<number>-<secret>`: unique here, unguessable, and telling which process made them.

    The epoch has 64 random bits, so that a reply meant for an earlier process is known as such; the secret has 64 of
    its own, so that knowing one id does not help to guess the next.
    """
    epoch = random(8).hex()
    number = 0
    pool, at = "", 0

    def rid() -> str:
        nonlocal number, pool, at
        if at == len(pool):
            pool, at = random(BLOCK).hex(), 0
        number += 1
        at += 16
        return f"{epoch}-{number:x}-{pool[at - 16 : at]}"

    return rid


def epoch_of(rid: str) -> str:
    """The epoch of the process that made it."""
    return rid.partition("-")[0]

"""Messages that tests of one function need."""

from dataclasses import dataclass


@dataclass
class A:
    n: int = 0


@dataclass
class B:
    n: int = 0


@dataclass
class C:
    n: int = 0

"""What the core needs to know of an endpoint. Plain numbers; never a type, a function or a path."""

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint's limits.

    Attributes:
        name: the endpoint.
        timeout: seconds from admission to the deadline.
        max_in_flight: waiters at once.
        max_body: bytes of one body.
        idempotent: whether it may begin more than once.
        finishes: whether it runs on after its caller has left.
    """

    name: str
    timeout: float = 15.0
    max_in_flight: int = 100
    max_body: int = 2**20
    idempotent: bool = False
    finishes: bool = False

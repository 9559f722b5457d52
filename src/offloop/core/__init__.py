"""Decisions: who is admitted, who waits, who holds what, what a death means, in what order things stop.

Everything here is a function of state, event and `now`. No I/O, no threads, no clock reads, no asyncio: what is decided
is returned, and the gateway carries it out. Only `errors`, `clock`, `messages`, `events` and `settings` may be
imported.
"""

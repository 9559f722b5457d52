"""For the tests of programs that use offloop.

Owns what a user's test imports. No pytest here: its fixture is in `offloop.testing.pytest_plugin`, and the suites for
transports are in `offloop.testing.conformance`. For a node alone, call it, with `Job.fake()` where it asks for a job.
"""

from offloop.testing.clock import ManualClock, ManualTimers
from offloop.testing.deaths import lose_worker
from offloop.testing.stand_ins import answers, override

__all__ = ["ManualClock", "ManualTimers", "answers", "lose_worker", "override"]

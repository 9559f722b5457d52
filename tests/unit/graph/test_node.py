import functools
import math

import pytest

from offloop import Job, endpoint, node
from offloop.errors import UsageError
from offloop.graph.node import Mark, Node, mark_of, site_of, site_of_class
from offloop.graph.signature import read
from tests.unit.graph.messages import A, B


def test_a_decorated_function_stays_the_function_it_was():
    def work(a: A) -> B:
        return B(a.n + 1)

    assert node(work) is work
    assert node(name="other")(work) is work
    assert endpoint(work) is work
    assert endpoint(timeout=1)(work) is work
    assert work(A(1)) == B(2)


def test_the_mark_is_on_the_function_itself():
    @node(name="reader")
    def work(a: A) -> B: ...

    assert mark_of(work) == Mark("reader")
    assert mark_of(lambda: None) is None
    assert mark_of(A) is None


def test_a_node_may_be_wrapped_by_decorators_above_and_below():
    @node
    @functools.lru_cache
    def cached(a: int) -> B: ...

    def timed(function):
        @functools.wraps(function)
        def around(*args, **kwargs):
            return function(*args, **kwargs)

        return around

    @timed
    @node
    def outer(a: A) -> B: ...

    assert mark_of(cached)
    assert mark_of(outer)
    assert site_of(outer).name.endswith("outer")


class Holder:
    def method(self, a: A) -> B: ...

    def __call__(self, a: A) -> B: ...


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (Holder, "Holder cannot be a node: it is a type"),
        (Holder(), "it is a Holder"),
        (math.sqrt, "sqrt cannot be a node"),
        (functools.partial(print), "it is a partial"),
        (3, "3 cannot be a node: it is a int"),
        (Holder.method, "it is a method"),
        (staticmethod(Holder.method), "it is a method"),
    ],
)
@pytest.mark.parametrize("decorate", [node, endpoint, endpoint(timeout=1)])
def test_what_is_no_plain_function_is_refused_at_once(decorate, thing, says):
    with pytest.raises(UsageError, match=says):
        decorate(thing)


def test_a_class_is_found_where_it_is_written_if_its_source_is():
    assert site_of_class(Holder).file == __file__
    assert site_of_class(Holder).line > 1
    made = type("Made", (), {"__module__": "nowhere"})
    assert str(site_of_class(made)) == "nowhere.Made (?:0)"


def ready(function, known=()):
    faults = []
    found = read(node(function), Mark(None), faults)
    assert isinstance(found, Node)
    assert not faults
    return found.call(dict(known))


def test_a_node_is_called_with_the_message_and_the_job_it_asks_for():
    def plain(a: A) -> B:
        return B(a.n)

    def with_job(a: A, *, job: Job) -> B:
        return B(int(job.rid))

    assert ready(plain)(A(1), Job.fake(), None) == B(1)
    assert ready(with_job)(A(1), Job.fake(rid="7"), None) == B(7)
